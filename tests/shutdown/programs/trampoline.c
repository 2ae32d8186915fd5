/* The Python side of a library that takes a function pointer: what ctypes makes, with an API of our choice. */
#include "callback.h"

#include "function_pointer.h"

/* The library's threads have no end: once the process is leaving they get no further than this. */
static void
trampoline(long number)
{
    while (ledger_is_stopping()) {
        ledger_pause(1000000);
    }
    if (demo_callback(number) < 0) {
        ledger_pause(1000); /* the thread lives on, it need not burn a core for it */
    }
}

static PyObject *
demo_start(PyObject *module, PyObject *function)
{
    (void)module;
    if (demo_prepare(function, NULL) < 0) {
        return NULL;
    }
    int error = start_library(trampoline);
    if (error != 0) {
        return PyErr_Format(PyExc_OSError, "errno %d", error);
    }
    Py_RETURN_NONE;
}
