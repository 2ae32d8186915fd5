/* What the modules under test have in common. After <Python.h>, or after pep788.h where that replaces names. */
#ifndef PEP788_TESTS_MODULE_H
#define PEP788_TESTS_MODULE_H

/* Importing it does not switch the GIL of a free-threaded build on. */
static inline PyObject *
create_module(PyModuleDef *definition)
{
    PyObject *module = PyModule_Create(definition);
#ifdef Py_GIL_DISABLED
    if (module != NULL) {
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
    }
#endif
    return module;
}

#endif
