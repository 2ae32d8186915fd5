/* A callback in pybind11's way: gil_scoped_acquire around the call. */
#include "runner.h"

#include <pybind11/pybind11.h>

namespace py = pybind11;

BENCH_CALLBACK(py::gil_scoped_acquire)

PYBIND11_MODULE(bench_pybind11, module)
{
    module.def("set_callable", [](py::object object) { callable = object.release().ptr(); });
    module.def("run", [](py::args args) {
        PyObject *result = bench_run_named(contenders, args.ptr());
        if (result == nullptr) {
            throw py::error_already_set();
        }
        return py::reinterpret_steal<py::object>(result);
    });
}
