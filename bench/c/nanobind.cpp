/* A callback in nanobind's way: gil_scoped_acquire around the call. */
#include "runner.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

BENCH_CALLBACK(nb::gil_scoped_acquire)

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
