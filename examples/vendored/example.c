/* start(callable): a native thread calls it for as long as there is a Python to call. */
#include "pep788.h"

#include <pthread.h>
#include <unistd.h>

static PyInterpreterView *interpreter;

static void *run(void *callable)
{
    PyThreadStateToken *token;
    while ((token = PyThreadState_EnsureFromView(interpreter)) != NULL) {
        PyObject *result = PyObject_CallObject((PyObject *)callable, NULL);
        if (result == NULL)
            PyErr_WriteUnraisable((PyObject *)callable);
        Py_XDECREF(result);
        PyThreadState_Release(token);
        usleep(1000);
    }
    Pep788_DropRef(interpreter, (PyObject *)callable);      /* Python is ending */
    return NULL;
}

static PyObject *start(PyObject *module, PyObject *callable)
{
    pthread_t thread;
    Py_INCREF(callable);
    if (pthread_create(&thread, NULL, run, callable) != 0) {
        Py_DECREF(callable);
        return PyErr_NoMemory();
    }
    pthread_detach(thread);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"start", start, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "example", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_example(void)
{
    if (Pep788_Init() < 0 || (interpreter = PyInterpreterView_FromCurrent()) == NULL)
        return NULL;
    return PyModule_Create(&definition);
}
