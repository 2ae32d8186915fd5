/* What a C library with threads of its own looks like to Python: it is given a function and calls it. The two pools
   differ only in language. At the end of the process, when Python is gone, they tell how many threads did not come
   back from their last call. */
#ifndef POOL_H
#define POOL_H

#include <stdio.h>
#include <unistd.h>

enum { THREADS = 4, STOP = -1 };    /* a callback that returns STOP is not called again by that thread */

typedef int (*callback)(int thread);

static void report(int finished)
{
    char text[40];
    int length = snprintf(text, sizeof text, "lost %d\n", THREADS - finished);
    if (write(1, text, (size_t)length) != length)
        _exit(3);
}

#endif
