/* The C pthread pool of ten lines. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include "pool.h"

static callback call;
static atomic_int finished;

static void *work(void *number)
{
    while (call((int)(intptr_t)number) != STOP) {
    }
    atomic_fetch_add(&finished, 1);
    return NULL;
}

static void at_exit(void)
{
    for (int ms = 0; ms < 500 && finished < THREADS; ms++)
        usleep(1000);
    report(finished);
}

void start(callback function)
{
    call = function;
    atexit(at_exit);
    for (intptr_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i) == 0)
            pthread_detach(thread);
    }
}
