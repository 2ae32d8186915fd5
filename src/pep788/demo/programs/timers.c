/* POSIX timers: libc makes a new thread for every tick (SIGEV_THREAD). */
#include "callback.h"

enum { TIMERS = 4, PERIOD_US = 2000 };

static timer_t timers[TIMERS];
static int armed;

static void
on_tick(union sigval number)
{
    if (!ledger_is_stopping()) {
        demo_callback(number.sival_int);
    }
}

static void
stop(void)
{
    while (armed > 0) {
        timer_delete(timers[--armed]);
    }
}

static PyObject *
demo_start(PyObject *module, PyObject *function)
{
    (void)module;
    if (demo_prepare(function, stop) < 0) {
        return NULL;
    }
    for (; armed < TIMERS; armed++) {
        struct sigevent event = {0};
        event.sigev_notify = SIGEV_THREAD;
        event.sigev_value.sival_int = armed;
        event.sigev_notify_function = on_tick;
        struct itimerspec period = {{0, PERIOD_US * 1000}, {0, PERIOD_US * 1000}};
        if (timer_create(CLOCK_MONOTONIC, &event, &timers[armed]) != 0
            || timer_settime(timers[armed], 0, &period, NULL) != 0) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    Py_RETURN_NONE;
}
