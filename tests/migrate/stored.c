/* As late.c, with the callable in a struct that the callback is handed: `pep788 migrate` keeps the view in it, too. */
#include <Python.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    PyObject *callable;
} Source;

static sem_t late, first_done, finished;
static int patience; /* seconds until the thread counts as lost */

static int call_back(void *data)
{
    PyObject *result;
    PyGILState_STATE state;

    state = PyGILState_Ensure();
    Source *source = (Source *)data;
    result = PyObject_CallObject(source->callable, NULL);
    if (result == NULL) {
        PyErr_Clear();
        PyGILState_Release(state);
        return -1;
    }
    Py_DECREF(result);
    PyGILState_Release(state);
    return 0;
}

static void *run(void *source)
{
    printf("first: %d\n", call_back(source));
    sem_post(&first_done);
    sem_wait(&late);
    printf("late: %d\n", call_back(source));
    sem_post(&finished);
    return NULL;
}

static void at_process_exit(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += patience;
    sem_post(&late);
    if (sem_timedwait(&finished, &until) == 0) {
        printf("finished\n");
    }
    fflush(stdout);
}

static PyObject *start(PyObject *module, PyObject *args)
{
    pthread_t thread;
    PyObject *callable;
    Source *source;
    if (!PyArg_ParseTuple(args, "Oi", &callable, &patience)) {
        return NULL;
    }
    source = PyMem_RawMalloc(sizeof(*source));
    if (source == NULL) {
        return PyErr_NoMemory();
    }
    source->callable = callable;
    if (pthread_create(&thread, NULL, run, source) != 0) {
        PyMem_RawFree(source);
        return PyErr_NoMemory();
    }
    Py_INCREF(callable);
    pthread_detach(thread);
    Py_BEGIN_ALLOW_THREADS
    sem_wait(&first_done);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"start", start, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "stored", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_stored(void)
{
    sem_init(&late, 0, 0);
    sem_init(&first_done, 0, 0);
    sem_init(&finished, 0, 0);
    atexit(at_process_exit);
    return PyModule_Create(&definition);
}
