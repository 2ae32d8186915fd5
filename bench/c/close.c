/* For the row "close": how long after the last Close does finalization go on? Beside it the least that any scheme
   must take: the same thread posts a semaphore that an atexit callback waits for. And for bench/memory.py: threads
   that keep a state. */

#include <Python.h>
#include <pep788.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static PyInterpreterGuard *held; /* NULL: the semaphore */
static sem_t posted;
static int64_t closed_at; /* published by Close itself, which the waiting thread synchronizes with */

static int64_t
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void *
hold(void *milliseconds)
{
    long wait = (long)(intptr_t)milliseconds;
    struct timespec time = {wait / 1000, wait % 1000 * 1000000};
    nanosleep(&time, NULL);
    closed_at = now();
    if (held == NULL) {
        sem_post(&posted);
    }
    else {
        PyInterpreterGuard_Close(held);
    }
    return NULL;
}

/* start(milliseconds, guarded): close a guard, or post the semaphore, from a native thread then. */
static PyObject *
start(PyObject *module, PyObject *args)
{
    pthread_t thread;
    long wait;
    int guarded;
    if (!PyArg_ParseTuple(args, "lp", &wait, &guarded)) {
        return NULL;
    }
    if (sem_init(&posted, 0, 0) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (guarded && (held = PyInterpreterGuard_FromCurrent()) == NULL) {
        return NULL;
    }
    if (pthread_create(&thread, NULL, hold, (void *)(intptr_t)wait) != 0) {
        if (guarded) {
            PyInterpreterGuard_Close(held);
        }
        return PyErr_NoMemory();
    }
    pthread_detach(thread);
    Py_RETURN_NONE;
}

/* An atexit callback: sleeps, detached, until the semaphore is posted. */
static PyObject *
await(PyObject *module, PyObject *unused)
{
    Py_BEGIN_ALLOW_THREADS
    while (sem_wait(&posted) != 0) {
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* Called by the garbage collection that finalization starts with, once no guard is open. */
static PyObject *
report(PyObject *module, PyObject *unused)
{
    if (closed_at != 0) {
        printf("%lld\n", (long long)(now() - closed_at));
        fflush(stdout);
        closed_at = 0;
    }
    Py_RETURN_NONE;
}

static void *
short_life(void *view)
{
    for (int i = 0; i < 3; i++) {
        PyThreadStateToken *token = Pep788_EnsureKept((PyInterpreterView *)view);
        if (token == NULL) {
            abort();
        }
        Pep788_ReleaseKept(token);
    }
    return NULL;
}

/* So many native threads, one after the other, keep a state, call three times and exit. */
static PyObject *
keep(PyObject *module, PyObject *count)
{
    static PyInterpreterView *view;
    long n = PyLong_AsLong(count);
    int failed = 0;
    if ((n == -1 && PyErr_Occurred()) || (view == NULL && (view = PyInterpreterView_FromCurrent()) == NULL)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (; n > 0 && !failed; n--) {
        pthread_t thread;
        failed = pthread_create(&thread, NULL, short_life, view) || pthread_join(thread, NULL);
    }
    Py_END_ALLOW_THREADS
    if (failed) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"keep", keep, METH_O, NULL},
    {"start", start, METH_VARARGS, NULL},
    {"await_post", await, METH_NOARGS, NULL},
    {"report", report, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "bench_close", .m_methods = methods};

PyMODINIT_FUNC
PyInit_bench_close(void)
{
    if (Pep788_Init() < 0) {
        return NULL;
    }
    return PyModule_Create(&definition);
}
