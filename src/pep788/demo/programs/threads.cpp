// A pool of C++ std::threads: RAII around the callback, and a noexcept frame that promises no unwinding.
#include "callback.h"

#include <system_error>
#include <thread>

#ifndef PAUSE_US
#define PAUSE_US 100
#endif

namespace {

#ifdef DEMO_PEP788
class Attached {
public:
    explicit Attached(PyInterpreterView *view) noexcept
    {
        ledger_ask();
        token_ = PyThreadState_EnsureFromView(view);
        token_ != nullptr ? ledger_attached() : ledger_refused();
    }
    ~Attached()
    {
        if (token_ != nullptr) {
            PyThreadState_Release(token_);
            ledger_back();
        }
    }
    Attached(const Attached &) = delete;
    Attached &operator=(const Attached &) = delete;
    explicit operator bool() const noexcept { return token_ != nullptr; }

private:
    PyThreadStateToken *token_;
};

bool
report(long number) noexcept
{
    Attached attached(demo_view);
    if (!attached) {
        return false;
    }
    demo_call(number);
    return true;
}
#else
class Attached {
public:
    Attached() : state_((ledger_ask(), PyGILState_Ensure())) { ledger_attached(); }
    ~Attached()
    {
        PyGILState_Release(state_);
        ledger_back();
    }
    Attached(const Attached &) = delete;
    Attached &operator=(const Attached &) = delete;

private:
    PyGILState_STATE state_;
};

bool
report(long number) noexcept
{
    Attached attached;
    demo_call(number);
    return true;
}
#endif

void
worker(long number)
{
    while (!ledger_is_stopping() && report(number)) {
        demo_pause(PAUSE_US);
    }
}

}  // namespace

static PyObject *
demo_start(PyObject *, PyObject *function)
{
    const long threads = 4;
    if (demo_prepare(function, nullptr) < 0) {
        return nullptr;
    }
    try {
        for (long i = 0; i < threads; i++) {
            std::thread(worker, i).detach();
        }
    }
    catch (const std::system_error &error) {
        PyErr_SetString(PyExc_OSError, error.what());
        return nullptr;
    }
    Py_RETURN_NONE;
}
