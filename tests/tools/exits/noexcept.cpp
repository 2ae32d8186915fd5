// The same from std::threads, whose caller is noexcept, as thread functions of libraries often are.
#include <chrono>
#include <thread>

using callback_t = int (*)(int);

static void call(callback_t callback, int number) noexcept
{
    callback(number);
}

extern "C" int pool_start(callback_t callback, int many, long pause_us)
{
    for (int number = 0; number < many; number++) {
        std::thread([=] {
            for (;;) {
                call(callback, number);
                if (pause_us > 0) {
                    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
                }
            }
        }).detach();
    }
    return 0;
}
