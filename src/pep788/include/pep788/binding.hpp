/*
 * pep788/binding.hpp: what pep788/pybind11.hpp and pep788/nanobind.hpp have in common.
 * Include one of those.
 *
 * Copyright (c) 2026 the pep788 authors.
 * SPDX-License-Identifier: MIT OR 0BSD
 */
#ifndef PEP788_BINDING_HPP
#define PEP788_BINDING_HPP

#include "../pep788.hpp"

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#if __cplusplus >= 201703L || (defined(_MSVC_LANG) && _MSVC_LANG >= 201703L)
#  include <optional>
#  define PEP788_OPTIONAL 1
#else
#  define PEP788_OPTIONAL 0
#endif

namespace pep788 PEP788_HIDDEN {
namespace detail {

/* The interpreter that gil_scoped_acquire without an argument means. */
struct home {
    view interpreter;
    bool is_main;
};

/* NULL before init(). Read by any thread at any time, so what was in it is never freed. */
inline std::atomic<const home *> &home_of_module() noexcept
{
    static std::atomic<const home *> of_module(nullptr);
    return of_module;
}

/* The main interpreter becomes the home of the module, or else the first one that calls
   this and is alive. 0, or -1 with an exception. Attached. */
inline int set_home_of_module() noexcept
{
    if (Pep788_Init() < 0) {
        return -1;
    }
    const bool is_main = PyInterpreterState_GetID(PyInterpreterState_Get()) == 0;
    const home *old = home_of_module().load(std::memory_order_acquire);
    if (old != nullptr && (old->is_main || !is_main) && guard(old->interpreter)) {
        return 0;
    }
    view interpreter = view::current();
    if (!interpreter) {
        return -1;
    }
    const home *fresh = new (std::nothrow) home{std::move(interpreter), is_main};
    if (fresh == nullptr) {
        PyErr_NoMemory();
        return -1;
    }
    home_of_module().store(fresh, std::memory_order_release);
    return 0;
}

/* Empty, and fatal where checks are on, before init(). Any thread. */
inline const view &interpreter_of_module() noexcept
{
    static const view &none = *new view();      /* leaked: threads may be here when static destructors run */
    const home *of_module = home_of_module().load(std::memory_order_acquire);
    check(of_module != nullptr,
          "pep788: gil_scoped_acquire needs pep788::py::init() or pep788::nb::init() at the start of the module");
    return of_module == nullptr ? none : of_module->interpreter;
}

/* Empty if it is refused, without an exception; one that was set stays. Attached. */
inline guard guard_of_current() noexcept
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    guard open = guard::current();
    PyErr_Restore(type, value, traceback);
    return open;
}

/*
 * Detaches this thread for the scope and keeps the interpreter from finalizing
 * meanwhile, so that the thread is not killed (up to 3.13.7) or frozen (later) when it
 * attaches again. If it is too late for a guard it stays attached. Attached; CPython 3.9+.
 */
class scoped_release {
public:
    scoped_release() noexcept : open_(guard_of_current()), state_(open_ ? PyEval_SaveThread() : nullptr) {}
    scoped_release(const scoped_release &) = delete;
    scoped_release &operator=(const scoped_release &) = delete;
    ~scoped_release() noexcept
    {
        if (state_ != nullptr) {
            PyEval_RestoreThread(state_);
        }
    }

    /* Whether it detached. */
    explicit operator bool() const noexcept { return state_ != nullptr; }

private:
    guard open_;
    PyThreadState *state_;
};

/* What a call gives that came too late, or that Python answered with an exception. */

template <typename Binding, typename Result>
class returning {
public:
    explicit returning(Result value) : value_(std::move(value)) {}
    Result too_late() const { return value_; }
    template <typename Error>
    Result raised(Error &error, PyObject *callable) const
    {
        Binding::report(error, callable);
        return value_;
    }

private:
    Result value_;
};

template <typename Binding>
class returning<Binding, void> {
public:
    void too_late() const noexcept {}
    template <typename Error>
    void raised(Error &error, PyObject *callable) const
    {
        Binding::report(error, callable);
    }
};

template <typename Exception, typename Result>
class throwing {
public:
    Result too_late() const { throw Exception("Python is finalizing or gone: the callable was not called"); }
    template <typename Error>
    Result raised(Error &error, PyObject *) const
    {
        throw Exception(error.what());
    }
};

/* What a std::function holds: any thread attaches for the call, as the binding does it. */
template <typename Binding, typename Result, typename Otherwise, typename Return, typename... Args>
class caller {
public:
    caller(std::shared_ptr<object> callable, Otherwise otherwise)
        : callable_(std::move(callable)), otherwise_(std::move(otherwise))
    {
    }

    Result operator()(Args... args) const
    {
        typename Binding::acquire here(callable_->interpreter());
        if (!here) {
            return otherwise_.too_late();
        }
        PyObject *callable = callable_->get();
        try {
            return Binding::template call<Return>(callable, std::forward<Args>(args)...);
        }
        catch (typename Binding::error &error) {    /* Python raised */
            return otherwise_.raised(error, callable);
        }
        catch (std::exception &error) {             /* the result is of another type */
            return otherwise_.raised(error, callable);
        }
    }

private:
    std::shared_ptr<object> callable_;
    Otherwise otherwise_;
};

template <typename Binding, typename Signature>
class callable;

/*
 * A Python callable that C++ keeps. It, its copies and what or_return, or_throw and
 * or_nullopt make of it may be copied, called and destroyed on any thread, attached or
 * not, at any time, also after Python. Made by an attached thread from the argument of
 * a bound function; None gives an empty one. CPython 3.9+.
 */
template <typename Binding, typename Return, typename... Args>
class callable<Binding, Return(Args...)> {
public:
    static_assert(!Binding::template is_python<Return>::value,
                  "the result would be a reference held by a thread that is not attached; return a C++ type");

    callable() noexcept {}

    /* Takes a new reference; NULL gives an empty one. Attached; throws bad_alloc. */
    explicit callable(PyObject *borrowed)
        : held_(borrowed == nullptr ? nullptr : std::make_shared<object>(object::borrow(borrowed)))
    {
        if (held_ != nullptr && !held_->interpreter()) {
            throw std::bad_alloc();
        }
    }

    explicit operator bool() const noexcept { return held_ != nullptr; }

    /* Borrowed; NULL if empty. What is done with it needs an attached thread state. */
    PyObject *get() const noexcept { return held_ == nullptr ? nullptr : held_->get(); }

    /*
     * A std::function that returns `value` if Python is finalizing or gone. An exception
     * of Python goes to sys.unraisablehook, and `value` is returned. Empty if this is.
     */
    template <typename Value = Return, typename std::enable_if<!std::is_void<Value>::value, int>::type = 0>
    std::function<Return(Args...)> or_return(Value value) const
    {
        return bind<Return>(returning<Binding, Return>(std::move(value)));
    }

    /* The same for void: a call that is too late does nothing. */
    template <typename Value = Return, typename std::enable_if<std::is_void<Value>::value, int>::type = 0>
    std::function<void(Args...)> or_return() const
    {
        return bind<void>(returning<Binding, void>());
    }

    /*
     * A std::function that throws Exception(const char *) if Python is finalizing or gone,
     * or raised; its message is Python's then. It holds no reference.
     */
    template <typename Exception>
    std::function<Return(Args...)> or_throw() const
    {
        return bind<Return>(throwing<Exception, Return>());
    }

#if PEP788_OPTIONAL
    /* As or_return, and nullopt is what is returned. C++17. */
    template <typename Value = Return>
    std::function<std::optional<Value>(Args...)> or_nullopt() const
    {
        using Result = std::optional<Value>;
        return bind<Result>(returning<Binding, Result>(Result()));
    }
#endif

private:
    template <typename Result, typename Otherwise>
    std::function<Result(Args...)> bind(Otherwise otherwise) const
    {
        if (held_ == nullptr) {
            return nullptr;
        }
        return caller<Binding, Result, Otherwise, Return, Args...>(held_, std::move(otherwise));
    }

    std::shared_ptr<object> held_;
};

/* To sys.unraisablehook. Attached, no exception set. */
inline void report_unraisable(const std::exception &error, PyObject *callable) noexcept
{
    PyErr_SetString(PyExc_RuntimeError, error.what());
    PyErr_WriteUnraisable(callable);
}

} // namespace detail
} // namespace pep788

#endif /* PEP788_BINDING_HPP */
