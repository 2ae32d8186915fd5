/* A native thread calls a Python function: the one difference between the columns of the table.
 *
 * "old API" and "recompiled" are the #else branch (the second one built with -include pep788.h
 * -DPEP788_REPLACE_GILSTATE), the others are the #ifdef branch. Everything else is the same code.
 */
#ifndef PEP788_DEMO_CALLBACK_H
#define PEP788_DEMO_CALLBACK_H

#include <Python.h>

#include "ledger.h"

#ifdef DEMO_PEP788
#include <pep788.h>
static PyInterpreterView *demo_view;
#endif

static PyObject *demo_function; /* kept for ever: threads may use it as long as there is a Python */

static inline void
demo_pause(long microseconds)
{
    if (microseconds > 0) {
        ledger_pause(microseconds);
    }
}

static inline void
demo_call(long number)
{
    PyObject *result = PyObject_CallFunction(demo_function, "l", number);
    if (result == NULL) {
        PyErr_WriteUnraisable(demo_function);
    }
    Py_XDECREF(result);
}

#ifdef DEMO_PEP788

/* 0, or -1 when there is no Python any more: the thread then goes on without. */
static inline int
demo_callback(long number)
{
    ledger_ask();
    PyThreadStateToken *token = PyThreadState_EnsureFromView(demo_view);
    if (token == NULL) {
        ledger_refused();
        return -1;
    }
    ledger_attached();
    demo_call(number);
    PyThreadState_Release(token);
    ledger_back();
    return 0;
}

#else

static inline int
demo_callback(long number)
{
    ledger_ask();
    PyGILState_STATE state = PyGILState_Ensure();
    ledger_attached();
    demo_call(number);
    PyGILState_Release(state);
    ledger_back();
    return 0;
}

#endif

/* Called by start(function): 0, or -1 with an exception. */
static inline int
demo_prepare(PyObject *function, void (*stop)(void))
{
    if (ledger_open(stop) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "PEP788_DEMO_LEDGER: not a file that can be mapped");
        return -1;
    }
#ifdef DEMO_PEP788
    demo_view = PyInterpreterView_FromCurrent();
    if (demo_view == NULL) {
        return -1;
    }
#endif
    Py_INCREF(function);
    demo_function = function;
    return 0;
}

static PyObject *demo_start(PyObject *module, PyObject *function);

static PyMethodDef demo_methods[] = {
    {"start", demo_start, METH_O, "Start native threads that call function(number) until the process ends."},
    {NULL, NULL, 0, NULL},
};

static int
demo_exec(PyObject *module)
{
    (void)module;
#ifdef DEMO_PEP788
    return Pep788_Init();
#else
    return 0;
#endif
}

static PyModuleDef_Slot demo_slots[] = {
    {Py_mod_exec, (void *)demo_exec},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef demo_module = {PyModuleDef_HEAD_INIT, "program", NULL, 0, demo_methods, demo_slots,
                                         NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_program(void)
{
    return PyModuleDef_Init(&demo_module);
}

#endif
