/* The library of docs/bindings.md: threads that call back until they are told -1, and that a destructor joins. */
#ifndef LIBRARY_H
#define LIBRARY_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LIBRARY_THREADS 4

typedef int (*library_callback)(void *data, int number);

static struct {
    pthread_t threads[LIBRARY_THREADS];
    library_callback callback;
    void (*drop)(void *data);
    void *data;
} library;

static void *library_run(void *unused)
{
    int number = 0;
    while (library.callback(library.data, number++) != -1) {
        usleep(1000);
    }
    return unused;
}

/* After Python: the C library calls it when main has returned. */
static void library_end(void)
{
    int i;
    for (i = 0; i < LIBRARY_THREADS; i++) {
        pthread_join(library.threads[i], NULL);
    }
    library.drop(library.data);
    printf("joined %d\n", LIBRARY_THREADS);
    fflush(stdout);
}

static inline void library_on_event(library_callback callback, void (*drop)(void *data), void *data)
{
    int i;
    library.callback = callback;
    library.drop = drop;
    library.data = data;
    for (i = 0; i < LIBRARY_THREADS; i++) {
        if (pthread_create(&library.threads[i], NULL, library_run, NULL) != 0) {
            abort();
        }
    }
    atexit(library_end);
}

static inline void library_wait(void)
{
    usleep(10000);
}

#ifdef __cplusplus
#  include <functional>

static inline int library_call(void *data, int number)
{
    return (*static_cast<std::function<int(int)> *>(data))(number);
}

static inline void library_delete(void *data)
{
    delete static_cast<std::function<int(int)> *>(data);
}

static inline void on_event(std::function<int(int)> handler)
{
    library_on_event(library_call, library_delete, new std::function<int(int)>(handler));
}
#endif

#endif /* LIBRARY_H */
