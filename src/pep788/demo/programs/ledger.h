/* Who went into Python, and who came back.
 *
 * The counters live in a file that the parent process maps too, so a crash or a SIGKILL cannot lose them.
 * C11 or C++11 with GCC's or Clang's atomics; POSIX.
 */
#ifndef PEP788_DEMO_LEDGER_H
#define PEP788_DEMO_LEDGER_H

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

/* Read by the parent as signed 64-bit integers in this order. */
struct ledger {
    int64_t asked;         /* native code asks for Python */
    int64_t attached;      /* and got it */
    int64_t back;          /* and is out again, its own code going on */
    int64_t refused;       /* was told no, its own code going on */
    int64_t killed_door;   /* thread ended by CPython (pthread_exit) while asking */
    int64_t killed_inside; /* thread ended by CPython while attached, or between two bytecodes */
    int64_t finished;      /* 1: the process got as far as C's exit() and stopped its threads */
};

enum { LEDGER_OUTSIDE, LEDGER_DOOR, LEDGER_INSIDE };

static struct ledger *ledger;
static int ledger_stopping; /* threads look at it before each callback, as those of a tidy library do */
static pthread_key_t ledger_key;
static __thread intptr_t ledger_place;
static void (*ledger_stop_hook)(void);

static inline void
ledger_add(int64_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
}

static inline int64_t
ledger_read(int64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static inline int
ledger_is_stopping(void)
{
    return __atomic_load_n(&ledger_stopping, __ATOMIC_SEQ_CST);
}

static inline void
ledger_pause(long microseconds)
{
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&pause, NULL);
}

/* Runs at the end of every thread that ever asked. In the middle of a callback there is one way to get here: gh-87135,
 * the pthread_exit of CPython up to 3.13.7. */
static void
ledger_thread_end(void *unused)
{
    (void)unused;
    if (ledger_place == LEDGER_DOOR) {
        ledger_add(&ledger->killed_door);
    }
    else if (ledger_place == LEDGER_INSIDE) {
        ledger_add(&ledger->killed_inside);
    }
}

static inline void
ledger_ask(void)
{
    pthread_setspecific(ledger_key, ledger);
    ledger_place = LEDGER_DOOR;
    ledger_add(&ledger->asked);
}

static inline void
ledger_attached(void)
{
    ledger_place = LEDGER_INSIDE;
    ledger_add(&ledger->attached);
}

static inline void
ledger_back(void)
{
    ledger_place = LEDGER_OUTSIDE;
    ledger_add(&ledger->back);
}

static inline void
ledger_refused(void)
{
    ledger_place = LEDGER_OUTSIDE;
    ledger_add(&ledger->refused);
}

static int64_t
ledger_missing(void)
{
    int64_t out = ledger_read(&ledger->back) + ledger_read(&ledger->refused);
    out += ledger_read(&ledger->killed_door) + ledger_read(&ledger->killed_inside);
    return ledger_read(&ledger->asked) - out;
}

/* After Py_Finalize, in C's exit(): what the static destructor of a native library does. Stop the threads, and wait
 * for those that are in the middle of something; whoever is not back by then never will be. */
static void
ledger_at_exit(void)
{
    enum { PATIENCE_MS = 1000 };
    __atomic_store_n(&ledger_stopping, 1, __ATOMIC_SEQ_CST);
    if (ledger_stop_hook != NULL) {
        ledger_stop_hook();
    }
    for (int i = 0; i < PATIENCE_MS && ledger_missing() > 0; i++) {
        ledger_pause(1000);
    }
    ledger_add(&ledger->finished);
}

/* `stop` may be NULL. 0, or -1 when the environment names no ledger. */
static int
ledger_open(void (*stop)(void))
{
    const char *path = getenv("PEP788_DEMO_LEDGER");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    void *memory = mmap(NULL, sizeof(struct ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED || pthread_key_create(&ledger_key, ledger_thread_end) != 0) {
        return -1;
    }
    ledger = (struct ledger *)memory;
    ledger_stop_hook = stop;
#ifdef __linux__
    prctl(PR_SET_DUMPABLE, 0);         /* a core_pattern that is a pipe ignores RLIMIT_CORE */
    prctl(PR_SET_PDEATHSIG, SIGKILL);  /* a process that hangs must not outlive a demo that was killed */
#endif
    return atexit(ledger_at_exit);
}

#endif
