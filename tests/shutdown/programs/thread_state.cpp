// A pool of std::threads that make their thread states themselves, as binding libraries do, below a noexcept frame.
#include "callback.h"

#include <thread>

#ifndef PAUSE_US
#define PAUSE_US 100
#endif

namespace {

PyInterpreterState *interpreter;

class Acquired {
public:
    Acquired()
    {
        ledger_ask();
        PyEval_AcquireThread(PyThreadState_New(interpreter));
        ledger_attached();
    }
    ~Acquired()
    {
        PyThreadState_Clear(PyThreadState_Get());
        PyThreadState_DeleteCurrent();
        ledger_back();
    }
    Acquired(const Acquired &) = delete;
    Acquired &operator=(const Acquired &) = delete;
};

void
report(long number) noexcept
{
    Acquired acquired;
    demo_call(number);
}

void
worker(long number)
{
    while (!ledger_is_stopping()) {
        report(number);
        demo_pause(PAUSE_US);
    }
}

}  // namespace

static PyObject *
demo_start(PyObject *, PyObject *function)
{
    if (demo_prepare(function, nullptr) < 0) {
        return nullptr;
    }
    interpreter = PyInterpreterState_Get();
    for (long i = 0; i < 4; i++) {
        std::thread(worker, i).detach();
    }
    Py_RETURN_NONE;
}
