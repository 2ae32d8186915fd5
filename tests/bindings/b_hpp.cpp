// pep788.hpp under test: threads that call Python to the end and beyond, references that die anywhere, misuse.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.hpp>

#include "../module.h"

#include <atomic>
#include <cassert>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

namespace {

pep788::view interpreter; // lives as long as the process
PyObject *callable;       // leaked
std::atomic<long> calls, refused;
std::vector<std::thread> threads;

struct Late {
    std::vector<pep788::object> objects;
    ~Late()
    {
        for (auto &thread : threads) {
            thread.join();
        }
        objects.clear();
        std::printf("joined %d, refused %ld\n", static_cast<int>(threads.size()), refused.load());
        std::fflush(stdout);
    }
} late;

// As people write it today.
class OldAttached {
public:
    OldAttached() noexcept : state_(PyGILState_Ensure()) {}
    ~OldAttached() noexcept { PyGILState_Release(state_); }
    explicit operator bool() const noexcept { return true; }

private:
    PyGILState_STATE state_;
};

void
call() noexcept
{
    PyObject *result = PyObject_CallObject(callable, nullptr);
    if (result == nullptr) {
        PyErr_Clear();
    }
    Py_XDECREF(result);
    calls.fetch_add(1);
}

// Native 3.15.2 is starved by threads that attach without pause (F9).
void
rest() noexcept
{
#if PEP788_NATIVE
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
#endif
}

template <typename Way, typename... Args>
void
until_refused(const Args &...args) noexcept
{
    for (;;) {
        {
            Way here(args...);
            if (!here) {
                refused.fetch_add(1);
                return;
            }
            call();
        }
        rest();
    }
}

void
through_guards() noexcept
{
    for (;;) {
        pep788::guard open(interpreter);
        if (!open) {
            refused.fetch_add(1);
            return;
        }
        pep788::guard mine(std::move(open));
        assert(!open && mine);
        {
            pep788::attached here(mine);
            assert(here);
            call();
        }
        mine.reset();
        rest();
    }
}

// pool(way, threads, callable): returns once every thread has called
PyObject *
pool(PyObject *, PyObject *args)
{
    const char *way;
    int count;
    if (!PyArg_ParseTuple(args, "siO", &way, &count, &callable)) {
        return nullptr;
    }
    Py_INCREF(callable);
    for (int i = 0; i < count; i++) {
        if (std::strcmp(way, "attached") == 0) {
            threads.emplace_back([] { until_refused<pep788::attached>(interpreter); });
        }
        else if (std::strcmp(way, "kept") == 0) {
            threads.emplace_back([] { until_refused<pep788::kept>(interpreter); });
        }
        else if (std::strcmp(way, "guard") == 0) {
            threads.emplace_back(through_guards);
        }
        else {
            threads.emplace_back([] { until_refused<OldAttached>(); });
        }
    }
    while (calls.load() < 20L * count) {
        Py_BEGIN_ALLOW_THREADS
        std::this_thread::yield();
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

// drop(objects): each by a thread of its own, while Python runs
PyObject *
drop(PyObject *, PyObject *list)
{
    std::vector<std::thread> droppers;
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++) {
        droppers.emplace_back([](pep788::object &&mine) { mine.reset(); },
                              pep788::object::borrow(PyList_GetItem(list, i)));
    }
    Py_BEGIN_ALLOW_THREADS
    for (auto &thread : droppers) {
        thread.join();
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

// keep(object): a static destructor drops it
PyObject *
keep(PyObject *, PyObject *object)
{
    PyErr_SetString(PyExc_KeyError, "to be kept"); // making one leaves a pending exception alone
    late.objects.push_back(pep788::object::borrow(object));
    assert(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    Py_RETURN_NONE;
}

pep788::object assigned;

// assign(object)
PyObject *
assign(PyObject *, PyObject *object)
{
    assigned = pep788::object::borrow(object);
    Py_RETURN_NONE;
}

// moves(object): its reference count afterwards is that before
PyObject *
moves(PyObject *, PyObject *object)
{
    pep788::object first = pep788::object::borrow(object);
    pep788::object second(std::move(first));
    assert(!first && second && second.get() == object);
    pep788::object third;
    assert(!third);
    third = std::move(second);
    pep788::object &same = third;
    third = std::move(same);
    assert(third.get() == object && third.interpreter());
    third = pep788::object::borrow(object);
    assert(!pep788::object::steal(nullptr));
    PyObject *owned = third.release();
    assert(owned == object && !third);
    Py_DECREF(owned);

    pep788::view view = pep788::view::current();
    pep788::view other(std::move(view));
    assert(!view && other);
    view = std::move(other);
    pep788::guard guard(view);
    assert(guard);
    {
        pep788::attached outer(view);
        assert(outer && outer.is_valid());
        pep788::attached inner(std::move(outer));
        assert(inner && !outer);
        inner.release();
        assert(!inner);
    }
    return PyLong_FromLong(1);
}

// misuse(what): ends the process where checks are on
PyObject *
misuse(PyObject *, PyObject *args)
{
    const char *what;
    if (!PyArg_ParseTuple(args, "s", &what)) {
        return nullptr;
    }
    pep788::view empty;
    pep788::guard closed;
    pep788::object nothing;
    bool ok = true;
    if (std::strcmp(what, "guard") == 0) {
        ok = static_cast<bool>(pep788::guard(empty));
    }
    else if (std::strcmp(what, "attached to a view") == 0) {
        ok = static_cast<bool>(pep788::attached(empty));
    }
    else if (std::strcmp(what, "attached to a guard") == 0) {
        ok = static_cast<bool>(pep788::attached(closed));
    }
    else if (std::strcmp(what, "attached to an object") == 0) {
        ok = static_cast<bool>(pep788::attached(nothing));
    }
    else if (std::strcmp(what, "kept") == 0) {
        ok = static_cast<bool>(pep788::kept(empty));
    }
    else {
        ok = nothing.get() != nullptr;
    }
    return PyBool_FromLong(ok);
}

PyMethodDef methods[] = {
    {"pool", pool, METH_VARARGS, nullptr},
    {"drop", drop, METH_O, nullptr},
    {"keep", keep, METH_O, nullptr},
    {"assign", assign, METH_O, nullptr},
    {"moves", moves, METH_O, nullptr},
    {"misuse", misuse, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "b_hpp", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC
PyInit_b_hpp(void)
{
    if (Pep788_Init() < 0) {
        return nullptr;
    }
    interpreter = pep788::view::current();
    if (!interpreter) {
        return nullptr;
    }
    return create_module(&definition);
}
