/* Preloaded: the main thread's timed waits and its pauses last for ever. It goes on only when it is woken.
 *
 * What wakes up by itself now and then to look, however often, hangs below this; what is woken directly does not
 * notice. The pauses of a spinning lock (microseconds) are left alone.
 */
#ifndef _GNU_SOURCE
#  define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REAL(name, type) ((type)(dlsym(RTLD_NEXT, name)))

typedef int timed_wait(sem_t *, const struct timespec *);
typedef int clock_wait(sem_t *, clockid_t, const struct timespec *);
typedef int pause_for(const struct timespec *, struct timespec *);
typedef int clock_pause(clockid_t, int, const struct timespec *, struct timespec *);

static long taken; /* timeouts that were there */

static int
on_main_thread(void)
{
    return syscall(SYS_gettid) == getpid();
}

static int
sleep_for_ever(void)
{
    taken++;
    return pause(); /* ends with a signal only, as the call that it stands for */
}

static int
is_long(const struct timespec *time)
{
    return time->tv_sec > 0 || time->tv_nsec >= 1000000;
}

int
sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
    if (on_main_thread()) {
        taken++;
        return sem_wait(semaphore);
    }
    return REAL("sem_timedwait", timed_wait *)(semaphore, until);
}

int
sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until)
{
    if (on_main_thread()) {
        taken++;
        return sem_wait(semaphore);
    }
    return REAL("sem_clockwait", clock_wait *)(semaphore, clock, until);
}

int
nanosleep(const struct timespec *time, struct timespec *rest)
{
    if (on_main_thread() && is_long(time)) {
        return sleep_for_ever();
    }
    return REAL("nanosleep", pause_for *)(time, rest);
}

int
clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *rest)
{
    if (on_main_thread() && (flags != 0 || is_long(time))) {
        return sleep_for_ever();
    }
    return REAL("clock_nanosleep", clock_pause *)(clock, flags, time, rest);
}

int
usleep(useconds_t microseconds)
{
    struct timespec time = {microseconds / 1000000, (long)(microseconds % 1000000) * 1000};
    return nanosleep(&time, NULL);
}

__attribute__((destructor)) static void
tell(void)
{
    char text[60];
    int length = snprintf(text, sizeof text, "timeouts taken: %ld\n", taken);
    ssize_t done = write(2, text, (size_t)length);
    (void)done;
}
