/*
 * pep788.hpp: PEP 788 in C++11 and later, over pep788.h. No exceptions are thrown,
 * none are needed; everything is noexcept and move-only.
 *
 *   pep788::view      a handle to an interpreter that may be gone
 *   pep788::guard     while it is open, that interpreter does not finalize
 *   pep788::attached  this thread is attached, until the end of the scope
 *   pep788::kept      the same with a thread state that is kept between calls (F6)
 *   pep788::object    a reference that may be destroyed on any thread, at any time
 *
 *     static pep788::view interpreter;   // = pep788::view::current() in the module's init
 *
 *     void callback() noexcept {         // on any thread, at any time
 *         pep788::attached here(interpreter);
 *         if (!here) {
 *             return;                    // the interpreter is finalizing, or gone
 *         }
 *         ...
 *     }
 *
 * All of them can fail: test them (explicit operator bool) before you rely on them;
 * Pep788_LastFailure() says why. In debug builds (NDEBUG is not defined, or
 * Py_DEBUG is) the use of an empty one ends the process with a message that names
 * the function; in release builds it fails. PEP788_CHECKS=0 or 1 decides otherwise,
 * in all files of a module alike.
 *
 * Copyright (c) 2026 the pep788 authors.
 * SPDX-License-Identifier: MIT OR 0BSD
 */
#ifndef PEP788_HPP
#define PEP788_HPP

#include "pep788.h"

#ifndef PEP788_CHECKS
#  if !defined(NDEBUG) || defined(Py_DEBUG)
#    define PEP788_CHECKS 1
#  else
#    define PEP788_CHECKS 0
#  endif
#endif

/* Not exported, or one module would run the code of another one's copy on its own data. */
#if defined(_WIN32)
#  define PEP788_HIDDEN
#else
#  define PEP788_HIDDEN __attribute__((visibility("hidden")))
#endif

namespace pep788 PEP788_HIDDEN {

namespace detail {

/* Any thread, attached or not. */
inline void check(bool fine, const char *message) noexcept
{
#if PEP788_CHECKS
    if (!fine) {
        Py_FatalError(message);
    }
#else
    (void)fine;
    (void)message;
#endif
}

/* Owns a handle of C; `Close` gives it back. */
template <typename Handle, void (*Close)(Handle *)>
class handle {
public:
    handle() noexcept : handle_(nullptr) {}
    explicit handle(Handle *owned) noexcept : handle_(owned) {}
    handle(const handle &) = delete;
    handle &operator=(const handle &) = delete;
    handle(handle &&other) noexcept : handle_(other.release()) {}
    handle &operator=(handle &&other) noexcept
    {
        if (this != &other) {
            reset(other.release());
        }
        return *this;
    }
    ~handle() noexcept { reset(); }

    explicit operator bool() const noexcept { return handle_ != nullptr; }

    /* Borrowed; NULL if empty. */
    Handle *get() const noexcept { return handle_; }

    /* The caller owns what is returned. */
    Handle *release() noexcept
    {
        Handle *owned = handle_;
        handle_ = nullptr;
        return owned;
    }

    /* Gives back what it has and steals `owned`. */
    void reset(Handle *owned = nullptr) noexcept
    {
        Handle *old = handle_;
        handle_ = owned;
        if (old != nullptr) {
            Close(old);
        }
    }

private:
    Handle *handle_;
};

inline void close_view(PyInterpreterView *view) noexcept { PyInterpreterView_Close(view); }
inline void close_guard(PyInterpreterGuard *guard) noexcept { PyInterpreterGuard_Close(guard); }

} // namespace detail

/*
 * A view of an interpreter. May be destroyed on any thread at any time, also after
 * the interpreter and after Python; so it may be a global. PEP 788; CPython 3.9+.
 */
class view : public detail::handle<PyInterpreterView, detail::close_view> {
public:
    view() noexcept {}
    /* Steals `owned`. */
    explicit view(PyInterpreterView *owned) noexcept : handle(owned) {}

    /* Of the interpreter this thread is attached to. Empty with an exception set. */
    static view current() noexcept { return view(PyInterpreterView_FromCurrent()); }

    /* Of the main interpreter, also before Python is initialized; empty without
       memory. Any thread. In code that supports subinterpreters use current(). */
    static view main() noexcept { return view(PyInterpreterView_FromMain()); }
};

/*
 * An open guard. Any thread; may be closed on another one. It holds the exit of the
 * process up: one in a global never lets it end. PEP 788; CPython 3.9+.
 */
class guard : public detail::handle<PyInterpreterGuard, detail::close_guard> {
public:
    guard() noexcept {}
    /* Steals `owned`. */
    explicit guard(PyInterpreterGuard *owned) noexcept : handle(owned) {}

    /* Empty if it is too late, without an exception. Nothing need be attached. */
    explicit guard(const view &interpreter) noexcept : handle(open(interpreter)) {}

    /* Of the interpreter this thread is attached to. Empty with an exception set. */
    static guard current() noexcept { return guard(PyInterpreterGuard_FromCurrent()); }

private:
    static PyInterpreterGuard *open(const view &interpreter) noexcept
    {
        detail::check(static_cast<bool>(interpreter),
                      "pep788::guard: the view is empty; it failed or was moved from");
        return interpreter ? PyInterpreterGuard_FromView(interpreter.get()) : nullptr;
    }
};

class object;

namespace detail {

/* A token, of the thread that made it, given back in reverse order. */
template <void (*Release)(PyThreadStateToken *)>
class token {
public:
    token(const token &) = delete;
    token &operator=(const token &) = delete;
    token &operator=(token &&) = delete;    /* would release in the wrong order */

    explicit operator bool() const noexcept { return token_ != nullptr; }

    /* The same, in pybind11's and nanobind's word. */
    bool is_valid() const noexcept { return token_ != nullptr; }

    /* Detaches before the end of the scope. */
    void release() noexcept
    {
        PyThreadStateToken *owned = token_;
        token_ = nullptr;
        if (owned != nullptr) {
            Release(owned);
        }
    }

protected:
    explicit token(PyThreadStateToken *owned) noexcept : token_(owned) {}
    token(token &&other) noexcept : token_(other.token_) { other.token_ = nullptr; }
    ~token() noexcept { release(); }

private:
    PyThreadStateToken *token_;
};

inline void release(PyThreadStateToken *owned) noexcept { PyThreadState_Release(owned); }
inline void release_kept(PyThreadStateToken *owned) noexcept { Pep788_ReleaseKept(owned); }

} // namespace detail

/*
 * Attaches this thread for the scope it is declared in, if the interpreter is there,
 * and keeps that from finalizing meanwhile. Any thread; one that is attached already
 * stays as it is. May be moved (returned from a function), but stays on its thread.
 * PEP 788; CPython 3.9+.
 */
class attached : public detail::token<detail::release> {
public:
    explicit attached(const view &interpreter) noexcept : token(enter(interpreter)) {}
    explicit attached(const guard &open) noexcept : token(enter(open)) {}
    /* To the interpreter of the object. */
    inline explicit attached(const object &owned) noexcept;
    attached(attached &&other) noexcept : token(static_cast<token &&>(other)) {}

private:
    static inline PyThreadStateToken *enter(const object &owned) noexcept;
    static PyThreadStateToken *enter(const view &interpreter) noexcept
    {
        detail::check(static_cast<bool>(interpreter),
                      "pep788::attached: the view is empty; it failed or was moved from");
        return interpreter ? PyThreadState_EnsureFromView(interpreter.get()) : nullptr;
    }
    static PyThreadStateToken *enter(const guard &open) noexcept
    {
        detail::check(static_cast<bool>(open),
                      "pep788::attached: the guard is empty; it failed, was closed or moved from");
        return open ? PyThreadState_Ensure(open.get()) : nullptr;
    }
};

/*
 * As attached, for threads that call back often: the thread state is kept until the
 * thread ends (Pep788_EnsureKept). CPython 3.9+.
 */
class kept : public detail::token<detail::release_kept> {
public:
    explicit kept(const view &interpreter) noexcept : token(enter(interpreter)) {}
    kept(kept &&other) noexcept : token(static_cast<token &&>(other)) {}

private:
    static PyThreadStateToken *enter(const view &interpreter) noexcept
    {
        detail::check(static_cast<bool>(interpreter),
                      "pep788::kept: the view is empty; it failed or was moved from");
        return interpreter ? Pep788_EnsureKept(interpreter.get()) : nullptr;
    }
};

/*
 * A strong reference that may be destroyed, reset and moved on any thread, attached
 * or not, at any time, static destructors included: it is released if its interpreter
 * is there, and leaked if it is too late, which is harmless then (Pep788_DropRef).
 * Made by an attached thread; remembers that interpreter. CPython 3.9+.
 */
class object {
public:
    object() noexcept : object_(nullptr) {}
    object(const object &) = delete;
    object &operator=(const object &) = delete;
    object(object &&other) noexcept
        : interpreter_(static_cast<view &&>(other.interpreter_)), object_(other.object_)
    {
        other.object_ = nullptr;
    }
    object &operator=(object &&other) noexcept
    {
        if (this != &other) {
            object old(static_cast<object &&>(*this));  /* goes last: its end may assign to *this */
            interpreter_ = static_cast<view &&>(other.interpreter_);
            object_ = other.object_;
            other.object_ = nullptr;
        }
        return *this;
    }
    ~object() noexcept { reset(); }

    /* Takes a reference over; NULL gives an empty one. Attached. If there is no
       memory for a view it holds, but its end leaks; no exception is left set. */
    static object steal(PyObject *owned) noexcept
    {
        object result;
        if (owned != nullptr) {
            PyObject *type, *value, *traceback;
            PyErr_Fetch(&type, &value, &traceback);
            result.interpreter_ = view::current();
            PyErr_Restore(type, value, traceback);
            result.object_ = owned;
        }
        return result;
    }

    /* Takes a new reference. Attached. */
    static object borrow(PyObject *borrowed) noexcept
    {
        Py_XINCREF(borrowed);
        return steal(borrowed);
    }

    explicit operator bool() const noexcept { return object_ != nullptr; }

    /* Borrowed. What is done with it needs an attached thread state. */
    PyObject *get() const noexcept
    {
        detail::check(object_ != nullptr,
                      "pep788::object::get: it is empty; it was moved from, released or never set");
        return object_;
    }

    /* The caller owns the reference. */
    PyObject *release() noexcept
    {
        PyObject *owned = object_;
        object_ = nullptr;
        interpreter_.reset();
        return owned;
    }

    /* Drops the reference. Any thread, any time. */
    void reset() noexcept
    {
        PyObject *owned = object_;
        object_ = nullptr;
        if (owned != nullptr && interpreter_) {
            view interpreter(static_cast<view &&>(interpreter_));
            Pep788_DropRef(interpreter.get(), owned);
        }
    }

    /* Of the interpreter that the object belongs to. */
    const view &interpreter() const noexcept { return interpreter_; }

private:
    view interpreter_;
    PyObject *object_;
};

inline attached::attached(const object &owned) noexcept : token(enter(owned)) {}

inline PyThreadStateToken *attached::enter(const object &owned) noexcept
{
    detail::check(static_cast<bool>(owned),
                  "pep788::attached: the object is empty; it was moved from, released or never set");
    return owned.interpreter() ? enter(owned.interpreter()) : nullptr;
}

} // namespace pep788

#endif /* PEP788_HPP */
