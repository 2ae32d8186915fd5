// F5 in C++: references owned by objects with noexcept destructors, dropped by std::thread threads, by thread-local
// destructors and by static destructors after the interpreter is gone.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include "../module.h"

#include <atomic>
#include <cassert>
#include <memory>
#include <thread>
#include <vector>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

namespace {

PyInterpreterView *view; // lives as long as the process: static destructors use it

class Reference {
public:
    explicit Reference(PyObject *object) noexcept : object_(object) { Py_INCREF(object); }
    Reference(const Reference &) = delete;
    Reference &operator=(const Reference &) = delete;
    ~Reference() noexcept { Pep788_DropRef(view, object_); }

private:
    PyObject *object_;
};

std::unique_ptr<Reference> at_process_end;
std::vector<std::thread> threads;

struct JoinLast {
    ~JoinLast()
    {
        for (auto &thread : threads) {
            thread.join();
        }
    }
} join_last;

// drop_at_process_end(object): the reference is dropped by a static destructor, long after Py_FinalizeEx
PyObject *
drop_at_process_end(PyObject *, PyObject *object)
{
    at_process_end.reset(new Reference(object));
    Py_RETURN_NONE;
}

// drop_on_threads(factory, threads, each): every thread drops `each` references of its own while the process ends
PyObject *
drop_on_threads(PyObject *, PyObject *args)
{
    PyObject *factory;
    int count, each;
    if (!PyArg_ParseTuple(args, "Oii", &factory, &count, &each)) {
        return nullptr;
    }
    static std::atomic<int> started;
    for (int i = 0; i < count; i++) {
        std::vector<std::unique_ptr<Reference>> owned;
        for (int k = 0; k < each; k++) {
            PyObject *object = PyObject_CallObject(factory, nullptr);
            if (object == nullptr) {
                return nullptr;
            }
            owned.emplace_back(new Reference(object));
            Py_DECREF(object);
        }
        threads.emplace_back([owned = std::move(owned)]() mutable noexcept {
            started.fetch_add(1);
            while (!owned.empty()) {
                owned.pop_back();
            }
        });
    }
    while (started.load() < count) {
        Py_BEGIN_ALLOW_THREADS
        std::this_thread::yield();
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

// drop_by_thread_local(object): the destructor of a thread-local object, on a thread that ends, drops it
PyObject *
drop_by_thread_local(PyObject *, PyObject *object)
{
    auto *reference = new Reference(object);
    Py_BEGIN_ALLOW_THREADS
    std::thread([reference]() noexcept {
        thread_local std::unique_ptr<Reference> owner;
        owner.reset(reference);
    }).join();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"drop_at_process_end", drop_at_process_end, METH_O, nullptr},
    {"drop_on_threads", drop_on_threads, METH_VARARGS, nullptr},
    {"drop_by_thread_local", drop_by_thread_local, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "f_drop", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC
PyInit_f_drop(void)
{
    if (Pep788_Init() < 0 || (view = PyInterpreterView_FromCurrent()) == nullptr) {
        return nullptr;
    }
    return create_module(&definition);
}
