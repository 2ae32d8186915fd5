// The same in C++, as a careful library writes it: no exception may come out of a thread.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include "pool.h"

static callback call;
static std::atomic<int> finished;

static void work(int number) noexcept
{
    while (call(number) != STOP) {
    }
    ++finished;
}

extern "C" void start(callback function)
{
    call = function;
    std::atexit([] {
        for (int ms = 0; ms < 500 && finished < THREADS; ms++)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        report(finished);
    });
    for (int i = 0; i < THREADS; i++)
        std::thread(work, i).detach();
}
