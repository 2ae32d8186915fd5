// A small C++ std::thread pool whose caller of the callback is noexcept.
#include "function_pointer.h"

#include <chrono>
#include <system_error>
#include <thread>

static void
call(void (*callback)(long), long number) noexcept
{
    callback(number);
#if PAUSE_US
    std::this_thread::sleep_for(std::chrono::microseconds(PAUSE_US));
#endif
}

int
start_library(void (*callback)(long))
{
    try {
        for (long i = 0; i < 4; i++) {
            std::thread([callback, i] {
                for (;;) {
                    call(callback, i);
                }
            }).detach();
        }
    }
    catch (const std::system_error &error) {
        return error.code().value();
    }
    return 0;
}
