/* Preloaded into the programs of `pep788 stress` (LD_PRELOAD): sees what CPython does to native threads.

   It wraps pthread_create, pthread_exit, pause and abort, and catches fatal signals.  What it sees goes into a
   record, a file of this process that is mapped by it and read by pep788 stress (_record.py has the same layout), so
   that a crash loses nothing.  It calls no function of Python and works in processes that have none.

   Up to CPython 3.13.7 a thread that attaches after finalization has begun is ended with pthread_exit; from 3.13.8
   and 3.14 on it sleeps in pause() for ever (gh-87135).  Calls of these two from the object that contains CPython,
   on a thread that CPython did not create, are lost threads.

   Not seen: threads made with clone() or thrd_create(); threads cut off by the end of the process while they wait for
   the GIL; and anything if CPython's symbols are not visible in the program (linked statically, not exported). */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, dladdr, gettid by syscall */
#endif

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_include)
#if __has_include(<execinfo.h>) /* glibc; not musl */
#include <execinfo.h>
#define HAVE_BACKTRACE 1
#endif
#endif

#define EXPORT __attribute__((visibility("default")))

enum { EVENTS = 1024, LOSSES = 16, STAGES = 8, TEXT = 2048, FRAMES = 48 };
enum { RUNNING = 0, AFTER_FINALIZE = 7 }; /* stages; those between are set by inject/sitecustomize.py */
enum { STARTED = 1, ENDED = 2, KILLED = 3, PARKED = 4, CRASHED = 5 };
enum { RELEASED = 2 };
enum { HOLD_SECONDS = 60 };

typedef struct {
    int64_t ns;
    int32_t thread;
    int32_t kind;
} event_t;

typedef struct {
    int64_t ns;
    int32_t thread;
    int32_t kind;
    int32_t stage;
    char name[20];
    char frames[TEXT];
} loss_t;

typedef struct {
    char magic[8];
    int32_t pid;
    uint32_t python; /* PY_VERSION_HEX, written by sitecustomize.py */
    _Atomic int32_t stage; /* written by sitecustomize.py; by the probe after Py_FinalizeEx */
    int32_t probed;
    int64_t stage_ns[STAGES];
    int64_t begin_ns;
    _Atomic int32_t crash_signal;
    int32_t crash_thread;
    _Atomic int32_t hold; /* 0, or RELEASED by the reader: it has seen the crash */
    _Atomic int32_t crash_ready;
    _Atomic uint32_t events_made;
    _Atomic uint32_t losses_made;
    event_t events[EVENTS];
    loss_t losses[LOSSES];
    char crash_frames[TEXT];
} record_t;

_Static_assert(sizeof(event_t) == 16 && sizeof(loss_t) == 40 + TEXT, "_record.py has this layout");
_Static_assert(offsetof(record_t, events) == 120, "_record.py and sitecustomize.py have this layout");

static record_t *_Atomic record;
static _Thread_local int foreign __attribute__((tls_model("initial-exec")));
static int (*real_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static void (*real_exit)(void *);
static int (*real_pause)(void);
static void (*real_abort)(void);
static struct sigaction previous[NSIG];
static const int FATAL[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE};
static _Atomic int exit_hooks;
static uint64_t seed; /* 0: do not amplify */

static int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int32_t
thread_id(void)
{
    return (int32_t)syscall(SYS_gettid);
}

static void
note(int kind)
{
    record_t *to = atomic_load_explicit(&record, memory_order_acquire);
    if (to == NULL) {
        return;
    }
    uint32_t at = atomic_fetch_add_explicit(&to->events_made, 1, memory_order_relaxed);
    if (at < EVENTS) { /* the later ones are counted, not kept */
        to->events[at] = (event_t){now_ns(), thread_id(), kind};
    }
}

/* The object that contains CPython, or NULL: looked up each time, as it may be loaded late and dladdr is cheap. */
static void *
python_object(void)
{
    Dl_info info;
    void *function = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    return function != NULL && dladdr(function, &info) ? info.dli_fbase : NULL;
}

static int
is_in_python(const void *code)
{
    Dl_info info;
    void *python = python_object();
    return python != NULL && dladdr(code, &info) && info.dli_fbase == python;
}

/* --- stacks as text: "function (object)" a line, innermost first ---------------------------------------------- */

static void
write_frames(char *text, int skipped)
{
    size_t used = 0;
    text[0] = '\0';
#ifdef HAVE_BACKTRACE
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES);
    for (int i = skipped; i < count && used < TEXT - 1; i++) {
        Dl_info info;
        const char *object = "?", *symbol = "?";
        if (dladdr(frames[i], &info) && info.dli_fname != NULL) {
            const char *slash = strrchr(info.dli_fname, '/');
            object = slash != NULL ? slash + 1 : info.dli_fname;
            symbol = info.dli_sname != NULL ? info.dli_sname : "?";
        }
        int length = snprintf(text + used, TEXT - used, "%s (%s)\n", symbol, object);
        if (length < 0) {
            break;
        }
        used += (size_t)length;
    }
#else
    (void)skipped;
    (void)used;
#endif
}

/* --- threads -------------------------------------------------------------------------------------------------- */

static void
lose(int kind)
{
    record_t *to = atomic_load_explicit(&record, memory_order_acquire);
    int saved = errno;
    if (to != NULL) {
        uint32_t at = atomic_fetch_add_explicit(&to->losses_made, 1, memory_order_relaxed);
        if (at < LOSSES) {
            loss_t *loss = &to->losses[at];
            loss->thread = thread_id();
            loss->kind = kind;
            loss->stage = atomic_load_explicit(&to->stage, memory_order_relaxed);
            prctl(PR_GET_NAME, loss->name);
            write_frames(loss->frames, 2);
            loss->ns = now_ns();
        }
        note(kind);
    }
    errno = saved;
}

static void
pause_ms(uint64_t salt)
{
    uint64_t mixed = (seed + salt) * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    struct timespec time = {0, (long)((mixed >> 33) % 8000000)}; /* below 8 ms */
    nanosleep(&time, NULL);
}

static void
wait_for_reader(record_t *to)
{
    int64_t end = now_ns() + HOLD_SECONDS * INT64_C(1000000000); /* the reader may have been killed */
    while (atomic_load_explicit(&to->hold, memory_order_acquire) != RELEASED && now_ns() < end) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

/* Runs in exit(), after Py_FinalizeEx where the program calls that. */
static void
at_exit(void)
{
    record_t *to = atomic_load_explicit(&record, memory_order_acquire);
    if (to == NULL || to->python == 0) {
        return;
    }
    if (atomic_load_explicit(&to->stage, memory_order_relaxed) > RUNNING && to->stage_ns[AFTER_FINALIZE] == 0) {
        to->stage_ns[AFTER_FINALIZE] = now_ns();
        atomic_store_explicit(&to->stage, AFTER_FINALIZE, memory_order_relaxed);
    }
    if (seed != 0) {
        pause_ms((uint64_t)atomic_fetch_add_explicit(&exit_hooks, 1, memory_order_relaxed) + 100);
    }
    if (atomic_load_explicit(&to->crash_signal, memory_order_acquire) != 0) {
        wait_for_reader(to); /* do not end the process while another thread that has crashed is being looked at */
        nanosleep(&(struct timespec){1, 0}, NULL); /* and its signal ends it now */
    }
}

typedef struct {
    void *(*function)(void *);
    void *argument;
} start_t;

static void
thread_ended(void *unused)
{
    (void)unused;
    note(ENDED);
}

static void *
run_foreign(void *pointer)
{
    start_t start = *(start_t *)pointer;
    void *result;
    free(pointer);
    foreign = 1;
    note(STARTED);
    pthread_cleanup_push(thread_ended, NULL);
    result = start.function(start.argument);
    pthread_cleanup_pop(1);
    return result;
}

EXPORT int
pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument)
{
    if (real_create == NULL) { /* a constructor that runs before ours */
        real_create = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
            RTLD_NEXT, "pthread_create");
    }
    start_t *start = NULL;
    if (atomic_load_explicit(&record, memory_order_acquire) != NULL && !is_in_python((void *)function)) {
        start = malloc(sizeof *start);
    }
    if (start == NULL) {
        return real_create(thread, attributes, function, argument);
    }
    if (atomic_fetch_add_explicit(&exit_hooks, 1, memory_order_relaxed) == 0) {
        atexit(at_exit); /* registered late, it runs before the destructors of what was loaded before */
    }
    *start = (start_t){function, argument};
    int status = real_create(thread, attributes, run_foreign, start);
    if (status != 0) {
        free(start);
    }
    return status;
}

EXPORT void
pthread_exit(void *value)
{
    if (foreign && is_in_python(__builtin_return_address(0))) {
        lose(KILLED);
    }
    if (real_exit == NULL) {
        real_exit = (void (*)(void *))dlsym(RTLD_NEXT, "pthread_exit");
    }
    real_exit(value);
    __builtin_unreachable();
}

EXPORT int
pause(void)
{
    static _Thread_local int lost __attribute__((tls_model("initial-exec")));
    record_t *to = atomic_load_explicit(&record, memory_order_acquire);
    if (foreign && !lost && to != NULL && atomic_load_explicit(&to->stage, memory_order_relaxed) > RUNNING &&
        is_in_python(__builtin_return_address(0))) {
        lost = 1; /* CPython calls it in a loop */
        lose(PARKED);
    }
    return real_pause != NULL ? real_pause() : poll(NULL, 0, -1); /* both end with EINTR */
}

/* --- crashes -------------------------------------------------------------------------------------------------- */

/* Writes down where it happened and waits for the reader, who may look at the process with a debugger. */
static void
crash(int number)
{
    record_t *to = atomic_load_explicit(&record, memory_order_acquire);
    int32_t none = 0;
    if (to == NULL || to->python == 0) {
        return;
    }
    if (!atomic_compare_exchange_strong_explicit(
            &to->crash_signal, &none, number, memory_order_acq_rel, memory_order_acquire)) {
        while (to->crash_thread != thread_id()) { /* another thread is being looked at; its signal ends the process */
            nanosleep(&(struct timespec){1, 0}, NULL);
        }
        return; /* the signal of its own abort(), or of a crash while this was written down */
    }
    to->crash_thread = thread_id();
#ifdef PR_SET_PTRACER
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* Yama: the debugger is no ancestor of ours */
#endif
    note(CRASHED);
    write_frames(to->crash_frames, 1);
    /* release: pairs with the reader's look at crash_ready before it reads crash_frames */
    atomic_store_explicit(&to->crash_ready, 1, memory_order_release);
    wait_for_reader(to);
}

static void
on_fatal(int number)
{
    crash(number);
    sigaction(number, &previous[number], NULL);
    raise(number);
}

/* Some libraries, such as LLVM, replace the handlers of fatal signals. */
EXPORT void
abort(void)
{
    crash(SIGABRT);
    if (real_abort == NULL) {
        real_abort = (void (*)(void))dlsym(RTLD_NEXT, "abort");
    }
    real_abort();
    __builtin_unreachable();
}

/* --- begin ---------------------------------------------------------------------------------------------------- */

static void
open_record(void)
{
    const char *folder = getenv("PEP788_STRESS_DIR");
    char path[4096];
    record_t *made = NULL;
    if (folder != NULL && snprintf(path, sizeof path, "%s/%d", folder, (int)getpid()) < (int)sizeof path) {
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file >= 0) {
            if (ftruncate(file, sizeof *made) == 0) {
                void *memory = mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
                made = memory != MAP_FAILED ? memory : NULL;
            }
            close(file);
        }
    }
    if (made != NULL) {
        memcpy(made->magic, "PEP788S1", 8);
        made->pid = (int32_t)getpid();
        made->probed = 1;
        made->begin_ns = now_ns();
    }
    atomic_store_explicit(&record, made, memory_order_release);
}

static void
in_child(void)
{
    record_t *old = atomic_load_explicit(&record, memory_order_relaxed);
    open_record();
    record_t *made = atomic_load_explicit(&record, memory_order_relaxed);
    if (old != NULL && made != NULL) {
        made->python = old->python;
    }
    if (old != NULL) {
        munmap(old, sizeof *old);
    }
}

__attribute__((constructor)) static void
begin(void)
{
    const char *text = getenv("PEP788_STRESS_SEED");
    int saved = errno;
    real_create = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
        RTLD_NEXT, "pthread_create");
    real_exit = (void (*)(void *))dlsym(RTLD_NEXT, "pthread_exit");
    real_pause = (int (*)(void))dlsym(RTLD_NEXT, "pause");
    real_abort = (void (*)(void))dlsym(RTLD_NEXT, "abort");
    seed = text != NULL ? strtoull(text, NULL, 10) : 0;
    unsetenv("PEP788_STRESS_MAIN"); /* of the program that this process was before execve: the pid is the same */
    open_record();
    if (atomic_load_explicit(&record, memory_order_relaxed) == NULL) {
        errno = saved;
        return;
    }
#ifdef HAVE_BACKTRACE
    void *frames[1];
    backtrace(frames, 1); /* loads libgcc now, not in a signal handler */
#endif
    pthread_atfork(NULL, NULL, in_child);
    atexit(at_exit);
    for (size_t i = 0; i < sizeof FATAL / sizeof FATAL[0]; i++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_fatal;
        action.sa_flags = SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        sigaction(FATAL[i], &action, &previous[FATAL[i]]);
    }
    errno = saved;
}
