/* An extension module for run.py: native threads that call back, take and close guards, and are still there at exit. */
#include <pep788.h>

#include <pthread.h>
#include <stdatomic.h>

#define MANY 64

typedef struct {
    PyInterpreterView *view;
    PyInterpreterGuard *guard;
    PyObject *callback;
    int times;
} job;

static atomic_int running;

static int call(job *j)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(j->view);
    PyObject *result;
    if (token == NULL) {
        return 0;
    }
    result = PyObject_CallNoArgs(j->callback);
    if (result == NULL) {
        PyErr_WriteUnraisable(j->callback);
    }
    Py_XDECREF(result);
    PyThreadState_Release(token);
    return 1;
}

static void finish(job *j)
{
    Pep788_DropRef(j->view, j->callback);
    if (j->guard != NULL) {
        PyInterpreterGuard_Close(j->guard);
    }
    PyInterpreterView_Close(j->view);
    free(j);
}

/* `times` calls, nested in a guard that another thread took. */
static void *call_often(void *argument)
{
    job *j = argument;
    while (j->times-- > 0) {
        PyThreadStateToken *token = PyThreadState_Ensure(j->guard);
        if (token != NULL) {
            (void)call(j);
            PyThreadState_Release(token);
        }
    }
    finish(j);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

/* Until it is refused: finalization is under way then. */
static void *call_until_refused(void *argument)
{
    job *j = argument;
    while (call(j)) {
    }
    finish(j);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static PyObject *start(PyObject *module, PyObject *args)
{
    int i, threads, times;
    PyObject *callback;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oii", &callback, &threads, &times)) {
        return NULL;
    }
    for (i = 0; i < threads; i++) {
        pthread_t thread;
        job *j = calloc(1, sizeof(*j));
        if (j == NULL) {
            return PyErr_NoMemory();
        }
        Py_INCREF(callback);
        j->callback = callback;
        j->times = times;
        j->view = PyInterpreterView_FromCurrent();
        j->guard = times > 0 ? PyInterpreterGuard_FromView(j->view) : NULL;
        atomic_fetch_add(&running, 1);
        if (j->view == NULL || (times > 0 && j->guard == NULL)
            || pthread_create(&thread, NULL, times > 0 ? call_often : call_until_refused, j) != 0) {
            PyErr_SetString(PyExc_RuntimeError, "cannot start a thread");
            return NULL;
        }
        (void)pthread_detach(thread);
    }
    Py_RETURN_NONE;
}

static PyObject *count_running(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromLong(atomic_load(&running));
}

/* Takes guards in one order and closes them in another. */
static PyObject *take_and_close(PyObject *module, PyObject *unused)
{
    PyInterpreterGuard *guards[MANY];
    int i;
    (void)module;
    (void)unused;
    for (i = 0; i < MANY; i++) {
        guards[i] = PyInterpreterGuard_FromCurrent();
        if (guards[i] == NULL) {
            while (i-- > 0) {
                PyInterpreterGuard_Close(guards[i]);
            }
            return NULL;
        }
    }
    for (i = 0; i < MANY; i++) {
        PyInterpreterGuard_Close(guards[i * 37 % MANY]);
    }
    return Pep788_Modules();
}

static int execute(PyObject *module)
{
    (void)module;
    return Pep788_Init();
}

static PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, NULL},
    {"running", count_running, METH_NOARGS, NULL},
    {"take_and_close", take_and_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#ifdef Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pep788_sanitized", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_pep788_sanitized(void)
{
    return PyModuleDef_Init(&definition);
}
