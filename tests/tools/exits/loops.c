/* An extension module with four threads in a loop of Ensure, Python, Release: with the old API, or with pep788.h. */
#ifdef WITH_PEP788
#include <pep788.h>
#else
#include <Python.h>
#endif
#include <pthread.h>
#include <time.h>

enum { THREADS = 4 };
#ifdef WITH_PEP788
static PyInterpreterView *view;
#endif

static void *
run(void *function)
{
    struct timespec time = {0, 10000};
    for (;;) {
#ifdef WITH_PEP788
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        if (token == NULL) {
            return NULL;
        }
#else
        PyGILState_STATE token = PyGILState_Ensure();
#endif
        PyObject *result = PyObject_CallFunction((PyObject *)function, NULL);
        if (result == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(result);
#ifdef WITH_PEP788
        PyThreadState_Release(token);
#else
        PyGILState_Release(token);
#endif
        nanosleep(&time, NULL);
    }
    return NULL;
}

static PyObject *
start(PyObject *module, PyObject *function)
{
#ifdef WITH_PEP788
    view = PyInterpreterView_FromCurrent();
    if (view == NULL) {
        return NULL;
    }
#endif
    Py_INCREF(function);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, function) != 0) {
            return PyErr_NoMemory();
        }
        pthread_detach(thread);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"start", start, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "loops", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_loops(void)
{
#ifdef WITH_PEP788
    if (Pep788_Init() < 0) {
        return NULL;
    }
#endif
    return PyModule_Create(&definition);
}
