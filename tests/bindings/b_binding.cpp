// pep788/pybind11.hpp or, with -DB_NANOBIND, pep788/nanobind.hpp under test, next to what the binding itself offers.
#if defined(B_NANOBIND)
#  include <pep788/nanobind.hpp>

#  include <nanobind/nanobind.h>
#  include <nanobind/stl/function.h>
#  include <nanobind/stl/string.h>
#  include <nanobind/stl/vector.h>
#  include <nanobind/trampoline.h>

namespace theirs = nanobind;
namespace ours = pep788::nb;
#  define MODULE(name, variable) NB_MODULE(name, variable)
#else
#  include <pep788/pybind11.hpp>

#  include <pybind11/functional.h>
#  include <pybind11/pybind11.h>
#  include <pybind11/stl.h>

namespace theirs = pybind11;
namespace ours = pep788::py;
#  if PYBIND11_VERSION_MAJOR >= 3
#    define MODULE(name, variable) PYBIND11_MODULE(name, variable, theirs::multiple_interpreters::per_interpreter_gil())
#  else
#    define MODULE(name, variable) PYBIND11_MODULE(name, variable)
#  endif
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct TooLate : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using Function = std::function<int(int)>;
using Callable = ours::callable<int(int)>;

std::atomic<long> calls, refused;
std::atomic<int> in_flight;

// What C++ keeps until its static destructors, and the threads that are joined there.
struct Late {
    std::vector<std::thread> threads;
    std::vector<Function> functions;
    std::vector<pep788::object> objects;
    bool calls = true;

    ~Late()
    {
        for (auto &thread : threads) {
            thread.join();
        }
        std::thread([this] {
            for (auto &function : functions) {
                if (calls) {
                    call(function);
                }
            }
            functions.clear();
            objects.clear();
        }).join();
        std::printf("joined %d, refused %ld, in flight %d\n", static_cast<int>(threads.size()), refused.load(),
                    in_flight.load());
        std::fflush(stdout);
    }

private:
    static void call(const Function &function)
    {
        try {
            std::printf("late call gave %d\n", function(1));
        }
        catch (const std::exception &) {
            std::printf("late call threw\n");
        }
    }
} late;

// Native 3.15.2 is starved by threads that attach without pause (F9).
void
rest()
{
#if PY_VERSION_HEX >= 0x030F0000
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
#endif
}

struct Handler {
    virtual ~Handler() = default;
    virtual int on_event(int) = 0;
};

struct PyHandler : Handler {
#if defined(B_NANOBIND)
    NB_TRAMPOLINE(Handler, 1);
    int on_event(int number) override { NB_OVERRIDE_PURE(on_event, number); }
#else
    int on_event(int number) override { PYBIND11_OVERRIDE_PURE(int, Handler, on_event, number); }
#endif
};

template <typename Acquire>
bool
call_acquired(const Function &function)
{
    Acquire here;
    if (!static_cast<bool>(here)) {
        return false;
    }
    function(1);        // acquires once more, in the binding's own way
    return true;
}

// The binding's own; nanobind's can fail since its version 3.
bool
call_theirs(const Function &function)
{
    theirs::gil_scoped_acquire here;
#if defined(B_NANOBIND) && NB_VERSION_MAJOR >= 3
    if (!here) {
        return false;
    }
#endif
    function(1);
    return true;
}

bool
call_throwing(const Function &function)
{
    try {
        function(1);
        return true;
    }
    catch (const TooLate &) {
        return false;
    }
}

bool
call_virtual(Handler *handler)
{
    ours::gil_scoped_acquire here;
    if (!here) {
        return false;
    }
    handler->on_event(1);
    return true;
}

void
pool(int count, const std::function<bool()> &call)
{
    for (int i = 0; i < count; i++) {
        late.threads.emplace_back([call] {
            while (call()) {
                calls++;
                rest();
            }
            refused++;
        });
    }
    theirs::gil_scoped_release out;
    while (calls < 20L * count) {
        std::this_thread::yield();
    }
}

// pool_...(threads, callable): returns once every thread has called
void
pool_function(int count, const Callable &callable)
{
    Function function = callable.or_throw<TooLate>();
    pool(count, [function] { return call_throwing(function); });
}

template <bool (*Call)(const Function &)>
void
pool_acquire(int count, const Function &function)
{
    auto *leaked = new Function(function);
    pool(count, [leaked] { return Call(*leaked); });
}

void
pool_virtual(int count, Handler *handler)
{
    pool(count, [handler] { return call_virtual(handler); });
}

// on_thread(function): its result, from a native thread; "threw: ..." if it throws
std::string
on_thread(const std::function<std::string()> &function)
{
    std::string result;
    theirs::gil_scoped_release out;
    std::thread([&] {
        try {
            result = function();
        }
        catch (const TooLate &error) {
            result = std::string("threw: ") + error.what();
        }
    }).join();
    return result;
}

std::string
call_returning(const Callable &callable, int number)
{
    Function function = callable.or_return(-1);
    return on_thread([function, number] { return std::to_string(function(number)); });
}

std::string
call_to_throw(const Callable &callable, int number)
{
    Function function = callable.or_throw<TooLate>();
    return on_thread([function, number] { return std::to_string(function(number)); });
}

std::string
call_optional(const Callable &callable, int number)
{
    auto function = callable.or_nullopt();
    return on_thread([function, number] {
        auto result = function(number);
        return result ? std::to_string(*result) : "nothing";
    });
}

std::string
call_void(const ours::callable<void(std::string)> &callable)
{
    auto function = callable.or_return();
    return on_thread([function] {
        function("text");
        return std::string("called");
    });
}

// copies(callable): made, called and destroyed by a native thread
void
copies(const Callable &callable)
{
    std::vector<Function> functions(3, callable.or_return(-1));
    std::thread worker([](std::vector<Function> mine) {
        std::vector<Function> more(mine);
        for (auto &function : more) {
            function(1);
        }
    }, std::move(functions));
    theirs::gil_scoped_release out;
    worker.join();
}

// Whether the binding's own acquire finds its way on this native thread.
bool
theirs_works()
{
    theirs::gil_scoped_acquire here;
    return PyGILState_Check() && theirs::cast<int>(theirs::int_(7)) == 7;
}

template <typename Ours>
void
nest(const std::string &order)
{
    if (order == "theirs in ours") {
        Ours here;
        theirs::gil_scoped_acquire again;
        theirs_works();
    }
    else if (order == "ours in theirs") {
        theirs::gil_scoped_acquire here;
        {
            Ours again;
            theirs_works();
        }
        theirs_works();
    }
    else if (order == "release in ours") {
        Ours here;
        {
            theirs::gil_scoped_release out;
            theirs_works();
            Ours again;
            theirs_works();
        }
        {
            ours::gil_scoped_release out;
            theirs_works();
        }
        theirs_works();
    }
    else if (order == "ours in release in theirs") {
        theirs::gil_scoped_acquire here;
        theirs::gil_scoped_release out;
        {
            Ours again;
            theirs_works();
        }
        theirs_works();
    }
#if !defined(B_NANOBIND)
    else if (order == "disassociated in ours") {
        Ours here;
        theirs::gil_scoped_release out(true);
        Ours again;
        theirs_works();
    }
#endif
    else {
        throw std::invalid_argument(order);
    }
}

// nested(order, kept): three times on one native thread, and the binding's own acquire after each
int
nested(const std::string &order, bool is_kept)
{
    int fine = 0;
    theirs::gil_scoped_release out;
    std::thread([&] {
        for (int i = 0; i < 3; i++) {
            is_kept ? nest<ours::gil_scoped_acquire_kept>(order) : nest<ours::gil_scoped_acquire>(order);
            fine += theirs_works();
        }
    }).join();
    return fine;
}

#if !defined(B_NANOBIND)
// What pybind11's slot is restored for: without that it names a state that was deleted.
int
nested_without_slot()
{
    int fine = 0;
    pep788::view interpreter = pep788::view::current();
    theirs::gil_scoped_release out;
    std::thread([&] {
        for (int i = 0; i < 3; i++) {
            {
                pep788::attached here(interpreter);
                theirs::gil_scoped_release disassociated(true);
            }
            fine += theirs_works();
        }
    }).join();
    return fine;
}
#endif

// acquires(): whether an acquire without an argument works on a native thread
bool
acquires()
{
    return on_thread([] {
        ours::gil_scoped_acquire here;
        return std::string(here ? "yes" : "no");
    }) == "yes";
}

std::mutex mutex;
std::condition_variable changed;
bool entered, ending;

bool
is_finalizing()
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

// Left with the GIL, so that no finalization comes in between.
struct Counted {
    Counted() { in_flight++; }
    ~Counted() { in_flight--; }
};

template <typename Release>
struct CountedRelease : Counted, Release {};

// A call that has released the GIL when the program ends, and goes on for 0.2 s or until Python is finalizing.
void
work()
{
    std::unique_lock<std::mutex> lock(mutex);
    entered = true;
    changed.notify_all();
    changed.wait(lock, [] { return ending; });
    auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
    while (!is_finalizing() && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void
wait_for_work()
{
    theirs::gil_scoped_release out;
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [] { return entered; });
}

void
end_work()
{
    std::unique_lock<std::mutex> lock(mutex);
    ending = true;
    changed.notify_all();
}

// Whether it detached.
bool
releases()
{
    ours::gil_scoped_release out;
    return static_cast<bool>(out);
}

} // namespace

MODULE(b_binding, m)
{
    if (std::getenv("B_NO_INIT") == nullptr) {
        ours::init();
        ours::init();       // as in a further interpreter
    }
#if defined(B_NANOBIND)
    auto nullable = theirs::arg("callable").none();
#else
    auto nullable = theirs::arg("callable");
#endif
    m.def("pool_function", pool_function);
    m.def("pool_acquire", pool_acquire<call_acquired<ours::gil_scoped_acquire>>);
    m.def("pool_kept", pool_acquire<call_acquired<ours::gil_scoped_acquire_kept>>);
    m.def("pool_theirs", pool_acquire<call_theirs>);
    m.def("pool_virtual", pool_virtual);
    theirs::class_<Handler, PyHandler>(m, "Handler").def(theirs::init<>()).def("on_event", &Handler::on_event);

    m.def("keep", [](const Callable &callable) { late.functions.push_back(callable.or_return(-1)); });
    m.def("keep_theirs", [](const Function &function) { late.functions.push_back(function); });
    m.def("only_destroy", [] { late.calls = false; });
    m.def("keep_object", [](theirs::object object) { late.objects.push_back(ours::hold(std::move(object))); });

    m.def("call", call_returning);
    m.def("call_to_throw", call_to_throw);
    m.def("call_optional", call_optional);
    m.def("call_void", call_void);
    m.def("copies", copies);
    m.def("same", [](const Callable &callable) { return callable; }, nullable);
    m.def("is_empty", [](const Callable &callable) { return !callable && !callable.or_return(1); }, nullable);
    m.def("nested", nested);
    m.def("acquires", acquires);
#if !defined(B_NANOBIND)
    m.def("nested_without_slot", nested_without_slot);
#endif

    m.def("work", work, theirs::call_guard<CountedRelease<ours::gil_scoped_release>>());
    m.def("work_theirs", work, theirs::call_guard<CountedRelease<theirs::gil_scoped_release>>());
    m.def("wait_for_work", wait_for_work);
    m.def("end_work", end_work);
    m.def("releases", releases);
    m.def("guarded", [] { return PyGILState_Check(); }, theirs::call_guard<ours::gil_scoped_acquire>());
}
