// Every name of pep788/pybind11.hpp or pep788/nanobind.hpp, for the compilers' warnings.
#if defined(B_NANOBIND)
#  include <pep788/nanobind.hpp>

namespace theirs = nanobind;
namespace ours = pep788::nb;
#  define MODULE(name, variable) NB_MODULE(name, variable)
#else
#  include <pep788/pybind11.hpp>

namespace theirs = pybind11;
namespace ours = pep788::py;
#  define MODULE(name, variable) PYBIND11_MODULE(name, variable)
#endif

#include <stdexcept>

namespace {

pep788::view interpreter;
pep788::object held;
std::function<void(int)> on_event;
std::function<double(double, double)> combine, checked;

template <typename Acquire>
bool
attaches()
{
    Acquire here;
    Acquire there(interpreter);
    return here.is_valid() && there;
}

} // namespace

MODULE(use, m)
{
    ours::init();
    interpreter = pep788::view::current();
    m.def("keep", [](ours::callable<void(int)> callable, theirs::object object) {
        on_event = callable.or_return();
        held = ours::hold(std::move(object));
        return callable;
    });
    m.def("combine", [](const ours::callable<double(double, double)> &callable) {
        combine = callable.or_return(0.0);
        checked = callable.or_throw<std::runtime_error>();
        return callable && callable.get() != nullptr;
    });
    m.def("release", [] { return static_cast<bool>(ours::gil_scoped_release()); });
    m.def("acquire", attaches<ours::gil_scoped_acquire>, theirs::call_guard<ours::gil_scoped_release>());
    m.def("acquire_kept", attaches<ours::gil_scoped_acquire_kept>, theirs::call_guard<ours::gil_scoped_acquire>());
}
