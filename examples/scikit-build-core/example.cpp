// start(callable): a native thread calls it for as long as there is a Python to call.
#include <pep788/pybind11.hpp>

#include <chrono>
#include <thread>

namespace py = pybind11;

PYBIND11_MODULE(example, m)
{
    pep788::py::init();

    m.def("start", [](pep788::py::callable<bool()> callable) {
        std::thread([call = callable.or_return(false)] {
            while (call()) {    // false: it said so, or Python is ending
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        }).detach();
    });
}
