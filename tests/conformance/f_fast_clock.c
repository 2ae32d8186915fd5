/* Linked with --wrap=clock_gettime: a module for which each look at the monotonic clock is a day after the last one. */
#include <time.h>

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    static long days;
    int result = __real_clock_gettime(clock, now);
    if (clock == CLOCK_MONOTONIC) {
        now->tv_sec += 86400 * __atomic_add_fetch(&days, 1, __ATOMIC_SEQ_CST);
    }
    return result;
}
