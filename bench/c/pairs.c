/* The contenders that are plain C: pep788.h or, compiled without PEP788_ALWAYS on 3.15+, the native functions of the
 * same names; PyGILState; and what a processor and a lock cost at least.
 *
 * -DMODULE=name gives the module its name, so that both versions can be loaded side by side.
 * -DBENCH_KEPT: the header has Pep788_EnsureKept.
 */
#include "runner.h"

#include <pep788.h>

static PyInterpreterView *view;
static PyInterpreterState *interpreter;
static PyObject *callable;
static void (*pointer)(void);

#define CALL_BACK(task)                                                             \
    {                                                                               \
        PyObject *result = PyObject_CallNoArgs(callable);                           \
        if (result == NULL) {                                                       \
            PyErr_Clear();                                                          \
            ((bench_task *)(task))->failed = 1;                                     \
        }                                                                           \
        Py_XDECREF(result);                                                         \
    }
#define NOTHING(task)

/* -- attach and detach on a thread that has no thread state -- */

#define WITH_VIEW(task, ENSURE, RELEASE, WORK)                                      \
    BENCH_LOOP(task, {                                                              \
        PyThreadStateToken *token = ENSURE(view);                                   \
        if (token == NULL) {                                                        \
            BENCH_FAIL(task)                                                        \
        }                                                                           \
        WORK(task)                                                                  \
        RELEASE(token);                                                             \
    })
#define WITH_GILSTATE(task, WORK)                                                   \
    BENCH_LOOP(task, {                                                              \
        PyGILState_STATE state = PyGILState_Ensure();                               \
        WORK(task)                                                                  \
        PyGILState_Release(state);                                                  \
    })

static void
view_fresh(void *task)
{
    WITH_VIEW(task, PyThreadState_EnsureFromView, PyThreadState_Release, NOTHING);
}

static void
view_callback(void *task)
{
    WITH_VIEW(task, PyThreadState_EnsureFromView, PyThreadState_Release, CALL_BACK);
}

#ifdef BENCH_KEPT
static void
kept(void *task)
{
    WITH_VIEW(task, Pep788_EnsureKept, Pep788_ReleaseKept, NOTHING);
}

static void
kept_callback(void *task)
{
    WITH_VIEW(task, Pep788_EnsureKept, Pep788_ReleaseKept, CALL_BACK);
}
#endif

static void
gilstate_fresh(void *task)
{
    WITH_GILSTATE(task, NOTHING);
}

static void
gilstate_callback(void *task)
{
    WITH_GILSTATE(task, CALL_BACK);
}

/* The function itself sees to the GIL: ctypes and cffi. */
static void
pointer_callback(void *task)
{
    BENCH_LOOP(task, pointer());
}

/* -- already attached, by other means than Ensure -- */

static PyThreadState *
attach(void *task)
{
    PyThreadState *state = PyThreadState_New(interpreter);
    if (state == NULL) {
        ((bench_task *)task)->failed = 1;
        return NULL;
    }
    PyEval_RestoreThread(state);
    return state;
}

static void
detach(PyThreadState *state)
{
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

static void
ensure_attached(void *task)
{
    PyThreadState *state = attach(task);
    if (state != NULL) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        if (guard == NULL) {
            PyErr_Clear();
            ((bench_task *)task)->failed = 1;
        }
        else {
            BENCH_LOOP(task, {
                PyThreadStateToken *token = PyThreadState_Ensure(guard);
                if (token == NULL) {
                    BENCH_FAIL(task)
                }
                PyThreadState_Release(token);
            });
            PyInterpreterGuard_Close(guard);
        }
        detach(state);
    }
}

static void
gilstate_attached(void *task)
{
    PyThreadState *state = attach(task);
    if (state != NULL) {
        WITH_GILSTATE(task, NOTHING);
        detach(state);
    }
}

/* The least that a call into Python can cost a thread which keeps its state. */
static void
reattach(void *task)
{
    PyThreadState *state = attach(task);
    if (state != NULL) {
        (void)PyEval_SaveThread();
        BENCH_LOOP(task, {
            PyEval_RestoreThread(state);
            (void)PyEval_SaveThread();
        });
        PyEval_RestoreThread(state);
        detach(state);
    }
}

/* The call itself, without getting in or out. */
static void
attached_callback(void *task)
{
    PyThreadState *state = attach(task);
    if (state != NULL) {
        BENCH_LOOP(task, CALL_BACK(task));
        detach(state);
    }
}

/* -- guards -- */

static void
guard(void *task)
{
    BENCH_LOOP(task, {
        PyInterpreterGuard *taken = PyInterpreterGuard_FromView(view);
        if (taken == NULL) {
            BENCH_FAIL(task)
        }
        PyInterpreterGuard_Close(taken);
    });
}

/* -- what explains the rest -- */

static struct {
    char before[256];
    long value;
    char after[256];
} shared;

static void
atomic(void *task)
{
    long mine[64] = {0};
    BENCH_LOOP(task, {
        (void)__atomic_fetch_add(&mine[32], 1, __ATOMIC_SEQ_CST);
        (void)__atomic_fetch_sub(&mine[32], 1, __ATOMIC_SEQ_CST);
    });
}

static void
atomic_shared(void *task)
{
    BENCH_LOOP(task, {
        (void)__atomic_fetch_add(&shared.value, 1, __ATOMIC_SEQ_CST);
        (void)__atomic_fetch_sub(&shared.value, 1, __ATOMIC_SEQ_CST);
    });
}

static void
empty(void *task)
{
    BENCH_LOOP(task, __asm__ volatile("" ::: "memory"));
}

static const bench_contender contenders[] = {
    {"view", view_fresh},
    {"gilstate", gilstate_fresh},
    {"reattach", reattach},
    {"ensure attached", ensure_attached},
    {"gilstate attached", gilstate_attached},
    {"guard", guard},
    {"view callback", view_callback},
    {"gilstate callback", gilstate_callback},
    {"pointer callback", pointer_callback},
    {"attached callback", attached_callback},
#ifdef BENCH_KEPT
    {"kept", kept},
    {"kept callback", kept_callback},
#endif
    {"atomic", atomic},
    {"atomic shared", atomic_shared},
    {"empty", empty},
    {NULL, NULL},
};

/* -- the module -- */

static PyObject *
run(PyObject *module, PyObject *args)
{
    return bench_run_named(contenders, args);
}

static PyObject *
set_callable(PyObject *module, PyObject *object)
{
    PyObject *old = callable;
    Py_INCREF(object);
    callable = object;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *
set_pointer(PyObject *module, PyObject *address)
{
    void *value = PyLong_AsVoidPtr(address);
    if (value == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "a null pointer cannot be called");
    }
    pointer = (void (*)(void))(uintptr_t)value;
    Py_RETURN_NONE;
}

/* Create a subinterpreter that uses the header, and end it. */
static PyObject *
live_and_die(PyObject *module, PyObject *unused)
{
    PyThreadState *mine = PyThreadState_Get(), *its = Py_NewInterpreter();
    int ready;
    if (its == NULL) {
        PyThreadState_Swap(mine);
        return PyErr_Format(PyExc_RuntimeError, "no interpreter could be made");
    }
    ready = Pep788_Init() == 0;
    if (!ready) {
        PyErr_Clear();
    }
    Py_EndInterpreter(its);
    PyThreadState_Swap(mine);
    return ready ? Py_BuildValue("") : PyErr_Format(PyExc_RuntimeError, "Pep788_Init failed in a subinterpreter");
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, NULL},
    {"set_callable", set_callable, METH_O, NULL},
    {"set_pointer", set_pointer, METH_O, NULL},
    {"live_and_die", live_and_die, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define TEXT(name) TEXT_(name)
#define TEXT_(name) #name
#define INIT(name) INIT_(name)
#define INIT_(name) PyInit_##name

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = TEXT(MODULE), .m_methods = methods};

PyMODINIT_FUNC
INIT(MODULE)(void)
{
    if (Pep788_Init() < 0) {
        return NULL;
    }
    interpreter = PyInterpreterState_Get();
    view = PyInterpreterView_FromCurrent();
    return view == NULL ? NULL : PyModule_Create(&definition);
}
