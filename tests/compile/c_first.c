/* One module of two source files (and, in C++, a third): this one makes the module and calls Pep788_Init. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#ifdef __cplusplus
extern "C" {
#endif
PyObject *second_close(PyObject *self, PyObject *guard);
PyObject *second_count(PyObject *self, PyObject *unused);
PyObject *second_on_thread(PyObject *self, PyObject *unused);
PyObject *second_ensure(PyObject *self, PyObject *callable);
#ifdef __cplusplus
}
#endif

static PyObject *
first_guard(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    return guard == NULL ? NULL : PyLong_FromVoidPtr(guard);
}

static PyObject *
first_count(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromSsize_t(Pep788_GuardCount(PyInterpreterState_Get()));
}

static PyObject *
first_modules(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Pep788_Modules();
}

static PyMethodDef methods[] = {
    {"guard", first_guard, METH_NOARGS, NULL},
    {"count", first_count, METH_NOARGS, NULL},
    {"modules", first_modules, METH_NOARGS, NULL},
    {"second_close", second_close, METH_O, NULL},
    {"second_count", second_count, METH_NOARGS, NULL},
    {"second_on_thread", second_on_thread, METH_NOARGS, NULL},
    {"second_ensure", second_ensure, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "c_parts", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_c_parts(void)
{
    if (Pep788_Init() < 0) {
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    if (module != NULL) {
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
    }
#endif
    return module;
}
