/* F2, F7: a module of two source files that include the header in different ways; the second one is f_mixed_limited.c
   or made by the test. Both files' functions are used in turn, on the same guards, views and tokens. */
#define PY_SSIZE_T_CLEAN
#define FILE_ first_file
#include <Python.h>
#include "f_mixed.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int holding, gone;

static const File *
file(unsigned n)
{
    return n & 1 ? second_file() : first_file();
}

/* Which file does what changes with every bit of `way`. */
static void *
nested(void *way)
{
    unsigned w = (unsigned)(uintptr_t)way;
    PyInterpreterView *view = file(w)->view_from_main();
    assert(view != NULL);
    PyThreadStateToken *outer = file(w >> 1)->ensure_from_view(view);
    assert(outer != NULL);
    PyInterpreterGuard *guard = file(w >> 2)->guard_from_current();
    assert(guard != NULL);
    PyThreadStateToken *inner = file(w >> 3)->ensure(guard);
    assert(inner != NULL);
    Py_XDECREF(PyList_New(3));
    file(w >> 4)->release(inner);
    file(w >> 5)->close(guard);
    file(w >> 6)->release(outer);
    file(w >> 7)->view_close(view);
    return NULL;
}

static PyObject *
every_way(PyObject *self, PyObject *unused)
{
    pthread_t threads[8];
    for (unsigned w = 0; w < 256; w++) {
        (void)nested((void *)(uintptr_t)w);
    }
    Py_BEGIN_ALLOW_THREADS
    for (unsigned w = 0; w < 256; w += 8) {
        for (unsigned n = 0; n < 8; n++) {
            int failed = pthread_create(&threads[n], NULL, nested, (void *)(uintptr_t)(w + n));
            assert(!failed);
        }
        for (unsigned n = 0; n < 8; n++) {
            pthread_join(threads[n], NULL);
        }
    }
    Py_END_ALLOW_THREADS
    PyInterpreterState *interp = PyInterpreterState_Get();
    assert(file(0)->count(interp) <= 0 && file(1)->count(interp) <= 0); /* -1: native */
    Py_RETURN_NONE;
}

static void *
hold_run(void *n)
{
    const File *mine = file((unsigned)(uintptr_t)n);
    PyInterpreterView *view = mine->view_from_main();
    PyThreadStateToken *token = mine->ensure_from_view(view);
    assert(token != NULL);
    PyThreadState *state = PyEval_SaveThread();
    pthread_mutex_lock(&lock);
    holding++;
    pthread_cond_broadcast(&changed);
    while (!gone) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    usleep(100000); /* finalization gets its chance to go wrong */
    PyEval_RestoreThread(state);
    int failed = PyRun_SimpleString("import os; os.write(1, b'waited for\\n')");
    assert(!failed);
    mine->release(token);
    return NULL;
}

/* hold(n): a foreign thread that is inside an Ensure of that file until go() */
static PyObject *
hold(PyObject *self, PyObject *n)
{
    pthread_t thread;
    int before = holding;
    int failed = pthread_create(&thread, NULL, hold_run, (void *)(uintptr_t)PyLong_AsLong(n));
    assert(!failed);
    pthread_detach(thread);
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&lock);
    while (holding == before) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
go(PyObject *self, PyObject *unused)
{
    pthread_mutex_lock(&lock);
    gone = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"every_way", every_way, METH_NOARGS, NULL},
    {"hold", hold, METH_O, NULL},
    {"go", go, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "f_mixed", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_f_mixed(void)
{
    if (file(1)->init() < 0 || file(0)->init() < 0) {
        return NULL;
    }
    return PyModule_Create(&definition);
}
