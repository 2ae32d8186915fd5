/* A module that takes a guard and never gives it back. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>
#include "../../module.h"

static PyObject *
hold(PyObject *self, PyObject *ignored)
{
    if (PyInterpreterGuard_FromCurrent() == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"hold", hold, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "holder", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_holder(void)
{
    return Pep788_Init() < 0 ? NULL : create_module(&definition);
}
