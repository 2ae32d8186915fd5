/* A C library that takes its time at the end of the process, when Python is gone and PortAudio's thread is not. */
#include <stdlib.h>
#include <unistd.h>

static void wait_at_exit(void)
{
    usleep(100000);
}

void linger(void)
{
    atexit(wait_at_exit);
}
