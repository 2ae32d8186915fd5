// F11 in C++, unchanged as well: a std::thread whose frames must not be unwound by an interpreter that goes away.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <unistd.h>

namespace {

struct Gil {
    Gil() noexcept : state(PyGILState_Ensure()) {}
    ~Gil() noexcept { PyGILState_Release(state); }
    PyGILState_STATE state;
};

struct Unwound {
    ~Unwound()
    {
        if (!done) {
            static const char text[] = "UNWOUND\n";
            ssize_t written = write(1, text, sizeof text - 1);
            (void)written;
            std::abort();
        }
    }
    bool done = false;
};

void
loop(PyObject *callable) noexcept
{
    for (;;) {
        Unwound unwound;
        {
            Gil gil;
            PyObject *result = PyObject_CallObject(callable, nullptr);
            if (result == nullptr) {
                PyErr_WriteUnraisable(callable);
            }
            Py_XDECREF(result);
        }
        unwound.done = true;
#ifdef PACED
        // Native guards taken again at once would keep finalization waiting (F9).
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
#endif
    }
}

PyObject *
callbacks(PyObject *, PyObject *callable)
{
    Py_INCREF(callable);
    for (int i = 0; i < 3; i++) {
        std::thread(loop, callable).detach();
    }
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {{"callbacks", callbacks, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "f_gilstate_cpp", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC
PyInit_f_gilstate_cpp(void)
{
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    if (module != nullptr) {
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
    }
#endif
    return module;
}
