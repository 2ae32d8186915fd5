/* A pool of plain C pthreads, each reporting event after event to Python. */
#include "callback.h"

#ifndef PAUSE_US
#define PAUSE_US 100
#endif

enum { THREADS = 4 };

static void *
worker(void *number)
{
    while (!ledger_is_stopping() && demo_callback((long)(intptr_t)number) == 0) {
        demo_pause(PAUSE_US);
    }
    return NULL;
}

static PyObject *
demo_start(PyObject *module, PyObject *function)
{
    (void)module;
    if (demo_prepare(function, NULL) < 0) {
        return NULL;
    }
    for (intptr_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)i) != 0) {
            return PyErr_Format(PyExc_OSError, "no thread");
        }
        pthread_detach(thread);
    }
    Py_RETURN_NONE;
}
