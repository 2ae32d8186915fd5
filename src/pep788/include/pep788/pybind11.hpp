/*
 * pep788/pybind11.hpp: pep788 for pybind11 2.13 and later. C++11.
 *
 *   pep788::py::init()               call it first in PYBIND11_MODULE
 *   pep788::py::gil_scoped_acquire   pybind11's, but it can fail: test it
 *   pep788::py::gil_scoped_acquire_kept   the same for threads that call back often (F6)
 *   pep788::py::gil_scoped_release   pybind11's, but the thread is never killed or frozen
 *                                    when it comes back; for py::call_guard<> too
 *   pep788::py::callable<R(Args...)> a Python callable kept by C++, in place of a
 *                                    std::function argument
 *   pep788::py::hold(object)         a pep788::object: any Python object kept by C++
 *
 *     PYBIND11_MODULE(example, m) {
 *         pep788::py::init();
 *         m.def("on_event", [](pep788::py::callable<int(int)> f) {
 *             library_on_event(f.or_return(-1));       // a std::function<int(int)>
 *         });
 *     }
 *
 * All of it nests in pybind11's own classes and they in it, in any order.
 *
 * Copyright (c) 2026 the pep788 authors.
 * SPDX-License-Identifier: MIT OR 0BSD
 */
#ifndef PEP788_PYBIND11_HPP
#define PEP788_PYBIND11_HPP

#include "binding.hpp"

#include <pybind11/pybind11.h>

#if PYBIND11_VERSION_MAJOR < 2 || (PYBIND11_VERSION_MAJOR == 2 && PYBIND11_VERSION_MINOR < 13)
#  error "pep788/pybind11.hpp needs pybind11 2.13 or later; pep788.hpp alone works with any"
#endif

namespace pep788 PEP788_HIDDEN {
namespace py {

/* Once in each PYBIND11_MODULE, and in each interpreter that imports it. Attached;
   throws error_already_set. */
inline void init()
{
    if (::pep788::detail::set_home_of_module() < 0) {
        throw ::pybind11::error_already_set();
    }
}

namespace detail {

/*
 * pybind11 remembers the state of a thread in a slot of its own and prefers that to the
 * attached one. While ours is attached the slot names it; afterwards it is what it was:
 * gil_scoped_release(true) leaves ours there, which Release then deletes.
 */
class slot {
public:
    slot() noexcept : internals_(nullptr), saved_(nullptr) {}
    slot(const slot &) = delete;
    slot &operator=(const slot &) = delete;
    ~slot() noexcept { restore(); }

    /* `before`: the gilstate of this thread before it was attached. Attached. */
    void name_attached(const PyThreadState *before)
    {
#if !defined(PYBIND11_SIMPLE_GIL_MANAGEMENT)
        PyThreadState *mine = PyThreadState_Get();
        internals_ = &::pybind11::detail::get_internals();
        saved_ = get();
        if (saved_ == mine && before != mine) {
            saved_ = nullptr;       /* pybind11 2 names the state that its internals are first made with */
        }
        set(mine);
#else
        (void)before;
#endif
    }

    /* Attached. */
    void restore() noexcept
    {
#if !defined(PYBIND11_SIMPLE_GIL_MANAGEMENT)
        if (internals_ != nullptr) {
            set(saved_);
            internals_ = nullptr;
        }
#endif
    }

private:
#if PYBIND11_VERSION_MAJOR >= 3
    PyThreadState *get() const { return internals_->tstate.get(); }
    void set(PyThreadState *tstate) { internals_->tstate = tstate; }
#else
    PyThreadState *get() const
    {
        return static_cast<PyThreadState *>(PYBIND11_TLS_GET_VALUE(internals_->tstate));
    }
    void set(PyThreadState *tstate) { PYBIND11_TLS_REPLACE_VALUE(internals_->tstate, tstate); }
#endif

    ::pybind11::detail::internals *internals_;
    PyThreadState *saved_;
};

/* `Token`: pep788::attached or pep788::kept. */
template <typename Token>
class scoped_acquire {
public:
    /* The main interpreter, or the one in which init() was called first. */
    scoped_acquire() noexcept : scoped_acquire(::pep788::detail::interpreter_of_module()) {}

    explicit scoped_acquire(const view &interpreter) noexcept
        : before_(PyGILState_GetThisThreadState()), token_(interpreter)
    {
        if (token_) {
            try {
                slot_.name_attached(before_);
            }
            catch (...) {       /* no memory for pybind11's internals, which nobody had asked for yet */
                token_.release();
            }
        }
    }
    scoped_acquire(const scoped_acquire &) = delete;
    scoped_acquire &operator=(const scoped_acquire &) = delete;

    bool is_valid() const noexcept { return token_.is_valid(); }
    explicit operator bool() const noexcept { return token_.is_valid(); }

private:
    PyThreadState *before_;
    Token token_;
    slot slot_;     /* restored while attached: it is the last member */
};

struct binding {
    using acquire = scoped_acquire<attached>;
    using error = ::pybind11::error_already_set;

    template <typename T>
    using is_python = std::is_base_of<::pybind11::handle, typename std::decay<T>::type>;

    template <typename Return, typename... Args>
    static Return call(PyObject *callable, Args &&...args)
    {
        return ::pybind11::handle(callable)(std::forward<Args>(args)...).template cast<Return>();
    }

    static void report(error &raised, PyObject *callable)
    {
        raised.discard_as_unraisable(::pybind11::reinterpret_borrow<::pybind11::object>(callable));
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
 * There is no inc_ref: for a thread state that is kept use gil_scoped_acquire_kept.
 */
using gil_scoped_acquire = detail::scoped_acquire<attached>;
/* The same for threads that call back often: the thread state is kept between calls (F6). */
using gil_scoped_acquire_kept = detail::scoped_acquire<kept>;

using gil_scoped_release = ::pep788::detail::scoped_release;

template <typename Signature>
using callable = ::pep788::detail::callable<detail::binding, Signature>;

/* Attached. What it returns may be destroyed on any thread, at any time. */
inline object hold(::pybind11::object owned) noexcept { return object::steal(owned.release().ptr()); }

} // namespace py
} // namespace pep788

PYBIND11_NAMESPACE_BEGIN(PYBIND11_NAMESPACE)
PYBIND11_NAMESPACE_BEGIN(detail)

template <typename Return, typename... Args>
struct type_caster<::pep788::py::callable<Return(Args...)>> {
    using type = ::pep788::py::callable<Return(Args...)>;
    using result_type = conditional_t<std::is_same<Return, void>::value, void_type, Return>;

    bool load(handle src, bool convert)
    {
        if (src.is_none()) {
            return convert;     /* as pybind11's std::function: an empty one, unless an overload is better */
        }
        if (!isinstance<function>(src)) {
            return false;
        }
        value = type(src.ptr());
        return true;
    }

    static handle cast(const type &src, return_value_policy, handle)
    {
        return src ? handle(src.get()).inc_ref() : none().release();
    }

    PYBIND11_TYPE_CASTER(type, const_name("Callable[[") + ::pybind11::detail::concat(make_caster<Args>::name...)
                                   + const_name("], ") + make_caster<result_type>::name + const_name("]"));
};

PYBIND11_NAMESPACE_END(detail)
PYBIND11_NAMESPACE_END(PYBIND11_NAMESPACE)

#endif /* PEP788_PYBIND11_HPP */
