/* Native threads that call back for ever, or until they are told to stop: a plain library for ctypes. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

typedef int (*callback_t)(int);

enum { MOST = 64 };
static callback_t callback;
static long pause_us;
static atomic_int stopping;
static pthread_t threads[MOST];
static int count;

static void *
run(void *number)
{
    struct timespec time = {0, pause_us * 1000};
    while (!stopping) {
        callback((int)(long)number);
        if (pause_us > 0) {
            nanosleep(&time, NULL);
        }
    }
    return NULL;
}

int
pool_start(callback_t function, int many, long pause)
{
    callback = function;
    pause_us = pause;
    for (count = 0; count < many && count < MOST; count++) {
        if (pthread_create(&threads[count], NULL, run, (void *)(long)count) != 0) {
            return -1;
        }
    }
    return 0;
}

void
pool_stop(void)
{
    stopping = 1;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
}
