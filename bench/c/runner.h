/* Runs one contender on N native threads and tells how many times it got round in a window of time.
 *
 * A window, not a number of rounds: with two threads the one that the GIL favours would finish first and leave the
 * other one alone.  Each thread counts in a cache line of its own; the starting thread, which has let go of the GIL,
 * reads all counts at the beginning and at the end of the window.
 */
#ifndef PEP788_BENCH_RUNNER_H
#define PEP788_BENCH_RUNNER_H

#ifndef _GNU_SOURCE
#  define _GNU_SOURCE 1 /* pthread_setaffinity_np */
#endif
#include <Python.h>

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOST_THREADS 8

typedef struct {
    long long count; /* written by its own thread only */
    int failed;      /* the contender got NULL */
    int ready;
    int cpu; /* -1: anywhere */
    int *stop;
    void (*body)(void *);
    char padding[256]; /* two lines each: the prefetcher of x86 fetches pairs */
} bench_task;

typedef void (*bench_body)(void *);

/* OP is run until the window ends; `FAIL` inside it gives up. */
#define BENCH_LOOP(task, OP)                                                        \
    do {                                                                            \
        bench_task *bench_t = (bench_task *)(task);                                 \
        long long bench_n = 0;                                                      \
        __atomic_store_n(&bench_t->ready, 1, __ATOMIC_RELEASE);                     \
        while (!__atomic_load_n(bench_t->stop, __ATOMIC_RELAXED)) {                 \
            OP;                                                                     \
            __atomic_store_n(&bench_t->count, ++bench_n, __ATOMIC_RELAXED);         \
        }                                                                           \
    } while (0)

#define BENCH_FAIL(task)                                                            \
    {                                                                               \
        ((bench_task *)(task))->failed = 1;                                         \
        break;                                                                      \
    }

static void
bench_sleep(long long nanoseconds)
{
    struct timespec time;
    time.tv_sec = (time_t)(nanoseconds / 1000000000);
    time.tv_nsec = (long)(nanoseconds % 1000000000);
    nanosleep(&time, NULL);
}

static long long
bench_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void *
bench_thread(void *argument)
{
    bench_task *task = (bench_task *)argument;
#ifdef __linux__
    if (task->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(task->cpu, &set);
        (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    }
#endif
    task->body(task);
    __atomic_store_n(&task->ready, 1, __ATOMIC_RELEASE); /* also when it failed before its loop */
    return NULL;
}

/* The counts and the moment they were read, which took some tens of nanoseconds. */
static long long
bench_read(bench_task *tasks, int threads, long long *counts)
{
    int i;
    long long before = bench_now();
    for (i = 0; i < threads; i++) {
        counts[i] = __atomic_load_n(&tasks[i].count, __ATOMIC_RELAXED);
    }
    return before + (bench_now() - before) / 2;
}

/* (nanoseconds, [count of each thread]); RuntimeError if a thread could not do its work. */
static PyObject *
bench_run(bench_body body, int threads, double warm_ms, double window_ms, const int *cpus)
{
    static bench_task tasks[MOST_THREADS];
    pthread_t ids[MOST_THREADS];
    long long first[MOST_THREADS] = {0}, last[MOST_THREADS] = {0}, begin, end;
    int i, started = 0, stop = 0, failed = 0, idle, windows = 0;
    PyObject *counts;

    memset(tasks, 0, sizeof(tasks));
    Py_BEGIN_ALLOW_THREADS
    for (; started < threads; started++) {
        tasks[started].body = body;
        tasks[started].stop = &stop;
        tasks[started].cpu = cpus[started];
        if (pthread_create(&ids[started], NULL, bench_thread, &tasks[started]) != 0) {
            break;
        }
    }
    for (i = 0; i < started; i++) {
        while (!__atomic_load_n(&tasks[i].ready, __ATOMIC_ACQUIRE)) {
            bench_sleep(20000);
        }
    }
    bench_sleep((long long)(warm_ms * 1e6));
    begin = bench_read(tasks, started, first);
    do { /* a window in which a thread was not scheduled at all says nothing: it is made longer, not left out */
        bench_sleep((long long)(window_ms * 1e6));
        end = bench_read(tasks, started, last);
        for (idle = i = 0; i < started; i++) {
            failed |= tasks[i].failed;
            idle |= last[i] == first[i];
        }
    } while (idle && !failed && ++windows < 200);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (i = 0; i < started; i++) {
        pthread_join(ids[i], NULL);
        failed |= tasks[i].failed;
    }
    Py_END_ALLOW_THREADS
    if (started < threads || failed || idle) {
        PyErr_SetString(PyExc_RuntimeError, failed               ? "a call that should succeed gave NULL"
                                            : started < threads ? "no thread to be had"
                                                                : "a thread got nothing done in 200 windows");
        return NULL;
    }
    counts = PyList_New(threads);
    for (i = 0; counts != NULL && i < threads; i++) {
        PyObject *count = PyLong_FromLongLong(last[i] - first[i]);
        if (count == NULL) {
            Py_DECREF(counts);
            return NULL;
        }
        PyList_SET_ITEM(counts, i, count);
    }
    return counts == NULL ? NULL : Py_BuildValue("(LN)", end - begin, counts);
}

typedef struct {
    const char *name;
    bench_body body;
} bench_contender;

/* run(name, threads, warm_ms, window_ms, cpus): a contender of a NULL-ended table. */
static PyObject *
bench_run_named(const bench_contender *table, PyObject *args)
{
    const char *name;
    int threads, cpus[MOST_THREADS], i;
    double warm, window;
    PyObject *list;

    if (!PyArg_ParseTuple(args, "siddO!", &name, &threads, &warm, &window, &PyList_Type, &list)) {
        return NULL;
    }
    if (threads < 1 || threads > MOST_THREADS || PyList_GET_SIZE(list) < threads) {
        PyErr_SetString(PyExc_ValueError, "threads: 1 to 8, with a CPU (or -1) for each");
        return NULL;
    }
    for (i = 0; i < threads; i++) {
        cpus[i] = (int)PyLong_AsLong(PyList_GET_ITEM(list, i));
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    for (; table->name != NULL; table++) {
        if (strcmp(table->name, name) == 0) {
            return bench_run(table->body, threads, warm, window, cpus);
        }
    }
    return PyErr_Format(PyExc_KeyError, "no contender %s", name);
}

#ifdef __cplusplus
}

/* A callback in a binding's way: GUARD around a call that is made as all others make it. */
#  define BENCH_CALLBACK(GUARD)                                                     \
    static PyObject *callable;                                                      \
                                                                                    \
    static void callback(void *task)                                                \
    {                                                                               \
        BENCH_LOOP(task, {                                                          \
            GUARD gil;                                                              \
            PyObject *result = PyObject_CallNoArgs(callable);                       \
            if (result == nullptr) {                                                \
                PyErr_Clear();                                                      \
                ((bench_task *)task)->failed = 1;                                   \
            }                                                                       \
            Py_XDECREF(result);                                                     \
        });                                                                         \
    }                                                                               \
                                                                                    \
    static const bench_contender contenders[] = {{"callback", callback}, {nullptr, nullptr}};
#endif
#endif
