/* A callback in nanobind's way: gil_scoped_acquire around the call. */
#include "runner.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

static PyObject *callable;

static void
callback(void *task)
{
    BENCH_LOOP(task, {
        nb::gil_scoped_acquire gil;
        PyObject *result = PyObject_CallNoArgs(callable); /* as all others do: what differs is the way in */
        if (result == nullptr) {
            PyErr_Clear();
            ((bench_task *)task)->failed = 1;
        }
        Py_XDECREF(result);
    });
}

static const bench_contender contenders[] = {{"callback", callback}, {nullptr, nullptr}};

NB_MODULE(bench_nanobind, module)
{
    module.def("set_callable", [](nb::object object) { callable = object.release().ptr(); });
    module.def("run", [](nb::args args) {
        PyObject *result = bench_run_named(contenders, args.ptr());
        if (result == nullptr) {
            throw nb::python_error();
        }
        return nb::steal(result);
    });
}
