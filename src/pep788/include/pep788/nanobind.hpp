/*
 * pep788/nanobind.hpp: pep788 for nanobind 2 and later. C++17.
 *
 *   pep788::nb::init()               call it first in NB_MODULE
 *   pep788::nb::gil_scoped_acquire   nanobind's, but it can fail on every Python: test it
 *   pep788::nb::gil_scoped_acquire_kept   the same for threads that call back often (F6)
 *   pep788::nb::gil_scoped_release   nanobind's, but the thread is never killed or frozen
 *                                    when it comes back; for nb::call_guard<> too
 *   pep788::nb::callable<R(Args...)> a Python callable kept by C++, in place of a
 *                                    std::function argument
 *   pep788::nb::hold(object)         a pep788::object: any Python object kept by C++
 *
 *     NB_MODULE(example, m) {
 *         pep788::nb::init();
 *         m.def("on_event", [](pep788::nb::callable<int(int)> f) {
 *             library_on_event(f.or_return(-1));       // a std::function<int(int)>
 *         });
 *     }
 *
 * All of it nests in nanobind's own classes and they in it, in any order.
 *
 * Copyright (c) 2026 the pep788 authors.
 * SPDX-License-Identifier: MIT OR 0BSD
 */
#ifndef PEP788_NANOBIND_HPP
#define PEP788_NANOBIND_HPP

#include "binding.hpp"

#include <nanobind/nanobind.h>

#if NB_VERSION_MAJOR < 2
#  error "pep788/nanobind.hpp needs nanobind 2 or later; pep788.hpp alone works with any"
#endif

namespace pep788 PEP788_HIDDEN {
namespace nb {

/* Once in each NB_MODULE, and in each interpreter that imports it. Attached; throws python_error. */
inline void init()
{
    if (::pep788::detail::set_home_of_module() < 0) {
        throw ::nanobind::python_error();
    }
}

namespace detail {

/* `Token`: pep788::attached or pep788::kept. */
template <typename Token>
class scoped_acquire {
public:
    /* The main interpreter, or the one in which init() was called first. */
    scoped_acquire() noexcept : scoped_acquire(::pep788::detail::interpreter_of_module()) {}
    explicit scoped_acquire(const view &interpreter) noexcept : token_(interpreter) {}
    scoped_acquire(const scoped_acquire &) = delete;
    scoped_acquire &operator=(const scoped_acquire &) = delete;

    bool is_valid() const noexcept { return token_.is_valid(); }
    explicit operator bool() const noexcept { return token_.is_valid(); }

private:
    Token token_;
};

struct binding {
    using acquire = scoped_acquire<attached>;
    using error = ::nanobind::python_error;

    template <typename T>
    using is_python = std::is_base_of<::nanobind::handle, std::decay_t<T>>;

    template <typename Return, typename... Args>
    static Return call(PyObject *callable, Args &&...args)
    {
        return ::nanobind::cast<Return>(::nanobind::handle(callable)(std::forward<Args>(args)...));
    }

    static void report(error &raised, PyObject *callable) noexcept
    {
        raised.discard_as_unraisable(::nanobind::handle(callable));
    }
    static void report(const std::exception &raised, PyObject *callable) noexcept
    {
        ::pep788::detail::report_unraisable(raised, callable);
    }
};

} // namespace detail

/*
 * Attaches this thread for the scope, if the interpreter is there, and keeps that from
 * finalizing meanwhile. Any thread, at any time: test is_valid() or the object itself.
 */
using gil_scoped_acquire = detail::scoped_acquire<attached>;
/* The same for threads that call back often: the thread state is kept between calls (F6). */
using gil_scoped_acquire_kept = detail::scoped_acquire<kept>;

using gil_scoped_release = ::pep788::detail::scoped_release;

template <typename Signature>
using callable = ::pep788::detail::callable<detail::binding, Signature>;

/* Attached. What it returns may be destroyed on any thread, at any time. */
inline object hold(::nanobind::object owned) noexcept { return object::steal(owned.release().ptr()); }

} // namespace nb
} // namespace pep788

NAMESPACE_BEGIN(NB_NAMESPACE)
NAMESPACE_BEGIN(detail)

template <typename Return, typename... Args>
struct type_caster<::pep788::nb::callable<Return(Args...)>> {
    using Result = make_caster<std::conditional_t<std::is_void_v<Return>, void_type, Return>>;

    NB_TYPE_CASTER(::pep788::nb::callable<Return(Args...)>,
                   const_name("collections.abc.Callable[[") + concat(make_caster<Args>::Name...)
                       + const_name("], ") + Result::Name + const_name("]"))

    /* Their `flags` is uint8_t in nanobind 2 and uint32_t in 3. */
    template <typename Flags>
    bool from_python(handle src, Flags flags, cleanup_list *) noexcept
    {
        if (src.is_none()) {
            return (flags & static_cast<Flags>(cast_flags::convert)) != 0;  /* an empty one */
        }
        if (!PyCallable_Check(src.ptr())) {
            return false;
        }
        value = Value(src.ptr());
        return true;
    }

    static handle from_cpp(const Value &src, rv_policy, cleanup_list *) noexcept
    {
        return src ? handle(src.get()).inc_ref() : none().release();
    }
};

NAMESPACE_END(detail)
NAMESPACE_END(NB_NAMESPACE)

#endif /* PEP788_NANOBIND_HPP */
