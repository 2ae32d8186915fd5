// An extension as there are thousands: it knows nothing of pep788.
#include <Python.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <unistd.h>

namespace {

class Released {  // pybind11's gil_scoped_release
public:
    Released() : state_(PyEval_SaveThread()) {}
    ~Released() { PyEval_RestoreThread(state_); }
    Released(const Released &) = delete;
    Released &operator=(const Released &) = delete;

private:
    PyThreadState *state_;
};

std::atomic<bool> finalizes{false};

// Returns to Python once finalization has begun.
void
work_detached() noexcept
{
    Released released;
    while (!finalizes || Py_IsInitialized()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

PyObject *
work(PyObject *, PyObject *)
{
    work_detached();
    Py_RETURN_NONE;
}

PyObject *
set_finalizes(PyObject *, PyObject *)
{
    finalizes = true;
    Py_RETURN_NONE;
}

// Some time after the flag, so that the thread above is back in PyEval_RestoreThread.
void
linger()
{
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

PyObject *
linger_at_exit(PyObject *, PyObject *)
{
    Py_AtExit(linger);
    Py_RETURN_NONE;
}

void
call_back(PyObject *callable)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = PyObject_CallObject(callable, nullptr);
    if (result == nullptr) {
        PyErr_WriteUnraisable(callable);
    }
    Py_XDECREF(result);
    PyGILState_Release(state);
}

// call_soon(callable): on a native thread, which nobody joins.
PyObject *
call_soon(PyObject *, PyObject *callable)
{
    Py_INCREF(callable);
    std::thread(call_back, callable).detach();
    Py_RETURN_NONE;
}

// call_as_cffi(callable): its first callback on a thread calls Ensure once more, so that CPython keeps the thread state.
void
call_back_as_cffi(PyObject *callable, bool exits)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyGILState_Ensure();
    Py_XDECREF(PyObject_CallObject(callable, nullptr));
    PyGILState_Release(state);
    if (!exits) {
        pause();
    }
}

PyObject *
call_as_cffi(PyObject *, PyObject *callable)
{
    for (int exits = 0; exits < 2; exits++) {
        Py_INCREF(callable);
        std::thread(call_back_as_cffi, callable, exits != 0).detach();
    }
    Py_RETURN_NONE;
}

// call_and_forget(callable): Ensure without Release, and the thread exits.
void
call_back_without_release(PyObject *callable)
{
    PyGILState_Ensure();
    Py_XDECREF(PyObject_CallObject(callable, nullptr));
    PyEval_SaveThread();
}

PyObject *
call_and_forget(PyObject *, PyObject *callable)
{
    Py_INCREF(callable);
    std::thread(call_back_without_release, callable).detach();
    Py_RETURN_NONE;
}

// call_own_state(callable): with a thread state of its own, as pybind11's gil_scoped_acquire.
void
call_back_own_state(PyInterpreterState *interpreter, PyObject *callable)
{
    PyEval_AcquireThread(PyThreadState_New(interpreter));
    Py_XDECREF(PyObject_CallObject(callable, nullptr));
    PyThreadState_Clear(PyThreadState_Get());
    PyThreadState_DeleteCurrent();
}

PyObject *
call_own_state(PyObject *, PyObject *callable)
{
    Py_INCREF(callable);
    std::thread(call_back_own_state, PyInterpreterState_Get(), callable).detach();
    Py_RETURN_NONE;
}

// A state that is kept at rest for ever after a first callback.
void
call_back_kept_state(PyInterpreterState *interpreter, PyObject *callable)
{
    PyEval_AcquireThread(PyThreadState_New(interpreter));
    Py_XDECREF(PyObject_CallObject(callable, nullptr));
    PyEval_SaveThread();
    pause();
}

PyObject *
call_kept_state(PyObject *, PyObject *callable)
{
    Py_INCREF(callable);
    std::thread(call_back_kept_state, PyInterpreterState_Get(), callable).detach();
    Py_RETURN_NONE;
}

PyObject *
rest(PyObject *, PyObject *)
{
    {
        Released released;
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    Py_RETURN_NONE;
}

// call_late(callable): on a native thread, when the interpreter is gone.  The process then ends with status 7.
PyObject *late_callable;

void
ask_late()
{
    std::thread(call_back, late_callable).detach();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    _exit(7);
}

PyObject *
call_late(PyObject *, PyObject *callable)
{
    Py_INCREF(callable);
    late_callable = callable;
    std::atexit(ask_late);
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"work", work, METH_NOARGS, nullptr},
    {"set_finalizes", set_finalizes, METH_NOARGS, nullptr},
    {"linger_at_exit", linger_at_exit, METH_NOARGS, nullptr},
    {"call_soon", call_soon, METH_O, nullptr},
    {"call_as_cffi", call_as_cffi, METH_O, nullptr},
    {"call_and_forget", call_and_forget, METH_O, nullptr},
    {"call_own_state", call_own_state, METH_O, nullptr},
    {"call_kept_state", call_kept_state, METH_O, nullptr},
    {"rest", rest, METH_NOARGS, nullptr},
    {"call_late", call_late, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef_Slot slots[] = {
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "unmodified", nullptr, 0, methods, slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC
PyInit_unmodified(void)
{
    return PyModuleDef_Init(&definition);
}
