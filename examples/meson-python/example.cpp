// start(callable): a native thread calls it for as long as there is a Python to call.
#include <pep788.hpp>

#include <chrono>
#include <thread>

namespace {

// True if there may be a next time.
bool
call(const pep788::object &callable)
{
    pep788::kept here(callable.interpreter());  // the thread's state is kept between calls
    if (!here) {
        return false;                           // Python is ending
    }
    pep788::object result = pep788::object::steal(PyObject_CallObject(callable.get(), nullptr));
    if (!result) {
        PyErr_WriteUnraisable(callable.get());
    }
    return true;
}

void
run(pep788::object callable)
{
    while (call(callable)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

PyObject *
start(PyObject *, PyObject *callable)
{
    std::thread(run, pep788::object::borrow(callable)).detach();
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {{"start", start, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "example", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC
PyInit_example(void)
{
    return Pep788_Init() < 0 ? nullptr : PyModule_Create(&definition);
}
