/* The ten-line C pthread pool. */
#include "function_pointer.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

static void (*callback_of_user)(long);

static void *
worker(void *number)
{
    for (;;) {
        callback_of_user((long)(intptr_t)number);
#if PAUSE_US
        struct timespec pause = {0, PAUSE_US * 1000};
        nanosleep(&pause, 0);
#endif
    }
    return 0;
}

int
start_library(void (*callback)(long))
{
    callback_of_user = callback;
    for (intptr_t i = 0; i < 4; i++) {
        pthread_t thread;
        int error = pthread_create(&thread, 0, worker, (void *)i);
        if (error != 0) {
            return error;
        }
        pthread_detach(thread);
    }
    return 0;
}
