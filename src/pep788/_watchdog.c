/* The watchdog: says on stderr why a process does not end; see _watchdog.py.
 *
 * It must work when the GIL is held for ever and when sys and threading are torn
 * down, so a thread of its own, the watcher, which starts with finalization,
 * reports without a thread state, without malloc and without stdio.
 *
 *   clock    watchdog_mark, called by _watchdog.py when threading._shutdown
 *            begins, or by its atexit callback;
 *   stage    what was marked, the state of the header's seam, Py_IsInitialized();
 *   stacks   the C handler that faulthandler.register() installed for a signal
 *            nobody uses, called as a function: no version exports the dumper
 *            below it to all (3.9, 3.13 and 3.14 hide it);
 *   end      Py_AtExit, which is the last thing in Py_FinalizeEx: the watcher
 *            goes away, because an embedding program lives on.  When the process
 *            exits, atexit() of C starts the clock again.
 *
 * The watcher's code stays mapped: CPython never unloads an extension module. */

#include "_core.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#  include <io.h>
#  include <process.h>
#  define write _write
#  define getpid _getpid
#else
#  include <fcntl.h>
#  include <sys/resource.h>
#  include <sys/wait.h>
#  include <unistd.h>
#endif
#if defined(__linux__)
#  include <sys/prctl.h>
#  include <sys/syscall.h>
#  define HAS_PROC 1
#else
#  define HAS_PROC 0
#endif

#define LONGEST_SLEEP 3600.0    /* seconds; PyThread locks on Windows: 49 days */
#define DUMP_LIMIT 10           /* seconds, for the process that writes the stacks */

#define EXITING 3               /* a further stage: C exit handlers run */

/* As _watchdog.py packs it. */
typedef struct {
    uint64_t ident, native_id;
    char label[64];             /* ends with a zero byte */
} Named;

typedef void (*SignalHandler)(int);

static struct {
    pep788_word lock;           /* atomic: spin; everything below is under it */
    double after, abort_after;  /* seconds; 0: never */
    double begun;               /* pep788_now() at the start of finalization, or 0 */
    double due, pause;          /* of the next report */
    int reports;
    int stage;
    int ended;                  /* Py_FinalizeEx has returned */
    int end_watched;            /* Py_AtExit has our callback */
    PyThread_type_lock wake;    /* the watcher sleeps on it; NULL: there is none */
    int posted;                 /* it will wake up */
    unsigned long finalizer;    /* native id of the thread that finalizes */
#if !defined(_WIN32)
    pthread_t finalizer_thread;
#endif
    int dump_signal;
    SignalHandler dump;
    size_t named_count;
    Named named[128];
} watch;


/* --- writing --------------------------------------------------------------- */

static void
say(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof(text)) {
        length = (int)sizeof(text) - 1;
        text[length - 1] = '\n';
    }
    for (int done = 0; done < length;) {
        int written = (int)write(2, text + done, (unsigned)(length - done));
        if (written < 0 && errno != EINTR) {
            return;
        }
        done += written < 0 ? 0 : written;
    }
}

/* printf of a double may allocate. */
#define TENTHS "%ld.%ld s"
#define IN_TENTHS(seconds) (long)((seconds) + 0.05), (long)(((seconds) + 0.05) * 10.0) % 10


/* --- where finalization is ------------------------------------------------- */

/* What a report works on. */
typedef struct {
    int number, stage, dump_signal;
    unsigned long finalizer;
    double waited, abort_after, pause;
    SignalHandler dump;
} Report;

static int
dumper_is_there(const Report *report)
{
#if defined(_WIN32)
    (void)report;
    return 0;
#else
    /* Python uninstalls it when its modules are gone, and then frees what it needs. */
    struct sigaction now;
    return report->dump != NULL && sigaction(report->dump_signal, NULL, &now) == 0
           && now.sa_handler == report->dump;
#endif
}

static pep788_coordinator *
main_coordinator(void)
{
    pep788_word status = pep788_load_acquire(&pep788_shared.main.status);
    return status == PEP788_LIVE || status == PEP788_ENDING
               ? PEP788_PTR(pep788_coordinator, pep788_shared.main.coordinator) : NULL;
}

typedef struct { const char *name, *advice; } Stage;

static Stage
stage_reached(const Report *report)
{
    static const Stage
        joining = {"in threading._shutdown, waiting for non-daemon threads",
                   "(or for what it calls first: concurrent.futures joins its workers); join or end them"},
        callbacks = {"in atexit callbacks or pending calls",
                     "the Python stack of the thread that finalizes says which"},
        guards = {"waiting for interpreter guards", "their holders must give them back"},
        between = {"after the atexit callbacks and the wait for guards, before the finalizing flag",
                   "3.14+ ends leftover subinterpreters there, 3.15+ waits for native guards"},
        teardown = {"after the finalizing flag: flush of standard streams, garbage collection, teardown of modules",
                    "a destructor or a flush does not return"},
        clearing = {"after the finalizing flag and the teardown of modules: the interpreter itself is cleared",
                    "a destructor in C or a Py_AtExit callback does not return"},
        exiting = {"in exit handlers of the process",
                   "an atexit() of C or the destructor of a static object does not return"};
    if (report->stage == EXITING) {
        return exiting;
    }
    if (!Py_IsInitialized()) {
        return dumper_is_there(report) ? teardown : clearing;
    }
    pep788_coordinator *c = main_coordinator();
    int passed = c != NULL && pep788_load_acquire(&c->seam) == PEP788_SEAM_PASSED;
    if (passed && pep788_load_acquire(&c->phase) != PEP788_PHASE_CLOSED) {
        return guards;
    }
    if (report->stage == WATCHDOG_JOINING) {
        return joining;
    }
    return passed ? between : callbacks;
}


/* --- guards ---------------------------------------------------------------- */

/* What threading knew of a thread when finalization began; 0 if nothing. */
static int
find_named(unsigned long native_id, Named *found)
{
    int known = 0;
    pep788_lock(&watch.lock);
    for (size_t i = 0; i < watch.named_count && !known; i++) {
        known = native_id != 0 && watch.named[i].native_id == native_id;
        if (known) {
            *found = watch.named[i];
        }
    }
    pep788_unlock(&watch.lock);
    return known;
}

static void
report_holder(const pep788_holder *holder)
{
    pep788_taker takers[16];
    size_t count = pep788_takers(holder->record, takers, 16);
    say("pep788:   %zu of module %s, interpreter %ld%s\n", holder->count,
        holder->record->name, holder->id,
        count == 0 ? " (PEP788_TRACE=1 tells their threads and ages)" : "");
    for (size_t i = 0; i < count; i++) {
        Named named;
        say("pep788:     taken by %s (native id %lu), open for " TENTHS "\n",
            find_named(takers[i].native_id, &named) ? named.label : "an unnamed thread",
            takers[i].native_id, IN_TENTHS(takers[i].age));
    }
}

static void
report_guards(void)
{
    pep788_holder holders[32];
    size_t total = 0, count = 0;
    pep788_coordinator *c = main_coordinator();
    if (c != NULL) {
        count = pep788_holders(c, 1, holders, 32, &total);
    }
    say("pep788: open interpreter guards: %zu%s\n", total,
        PY_VERSION_HEX >= 0x030F0000 ? " (CPython does not tell of native ones)" : "");
    for (size_t i = 0; i < count; i++) {
        report_holder(&holders[i]);
    }
}


/* --- native threads -------------------------------------------------------- */

#if HAS_PROC

/* Those a thread sleeps in; the number is printed for the others. */
static const struct { long number; const char *name; } sleeps[] = {
    {SYS_read, "read"}, {SYS_write, "write"}, {SYS_readv, "readv"}, {SYS_writev, "writev"},
    {SYS_recvfrom, "recvfrom"}, {SYS_recvmsg, "recvmsg"}, {SYS_sendto, "sendto"},
    {SYS_sendmsg, "sendmsg"}, {SYS_accept4, "accept4"}, {SYS_connect, "connect"},
    {SYS_epoll_pwait, "epoll_pwait"}, {SYS_waitid, "waitid"}, {SYS_flock, "flock"},
    {SYS_fsync, "fsync"}, {SYS_rt_sigsuspend, "sigsuspend"},
#ifdef SYS_futex        /* not on 32-bit systems whose time_t always had 64 */
    {SYS_futex, "futex (a lock)"}, {SYS_ppoll, "ppoll"}, {SYS_pselect6, "pselect"},
    {SYS_nanosleep, "nanosleep"}, {SYS_clock_nanosleep, "clock_nanosleep"},
    {SYS_wait4, "wait4"}, {SYS_rt_sigtimedwait, "sigtimedwait"},
#endif
#ifdef SYS_accept       /* not on 32-bit x86 */
    {SYS_accept, "accept"},
#endif
#ifdef SYS_poll         /* these: not on newer architectures */
    {SYS_poll, "poll"}, {SYS_epoll_wait, "epoll_wait"}, {SYS_pause, "pause"},
#endif
#ifdef SYS_select
    {SYS_select, "select"},
#endif
};

/* 0 if it cannot be read. The line's end is cut off. */
static int
read_task_file(unsigned long id, const char *name, char *text, size_t size)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/task/%lu/%s", id, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, size - 1);
    if (file >= 0) {
        (void)close(file);
    }
    text[length < 0 ? 0 : length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return length > 0;
}

static const char *
name_of_state(unsigned long id)
{
    char text[256];
    const char *end = read_task_file(id, "stat", text, sizeof(text)) ? strrchr(text, ')') : NULL;
    switch (end == NULL || end[1] == '\0' ? '\0' : end[2]) {
    case 'R': return "running";
    case 'S': return "sleeping";
    case 'D': return "blocked";     /* uninterruptible: a disk, NFS, a driver */
    case 'T':
    case 't': return "stopped";
    case 'Z':
    case 'X': return "ended";
    default: return "unknown";
    }
}

/* The system call it is in, as far as the kernel tells. */
static void
describe_wait(unsigned long id, char *text, size_t size)
{
    char call[64], place[64];
    if (!read_task_file(id, "syscall", call, sizeof(call))) {
        (void)snprintf(text, size, "place not known");
        return;
    }
    if (strncmp(call, "running", 7) == 0 || call[0] == '-') {
        (void)snprintf(text, size, "in no system call");
        return;
    }
    long number = strtol(call, NULL, 10);
    const char *name = NULL;
    for (size_t i = 0; i < sizeof(sleeps) / sizeof(sleeps[0]); i++) {
        name = sleeps[i].number == number ? sleeps[i].name : name;
    }
    if (name != NULL) {
        (void)snprintf(text, size, "in %s", name);
    }
    else if (read_task_file(id, "wchan", place, sizeof(place)) && strcmp(place, "0") != 0) {
        (void)snprintf(text, size, "in system call %ld, kernel function %s", number, place);
    }
    else {
        (void)snprintf(text, size, "in system call %ld", number);
    }
}

static void
report_thread(unsigned long id, const Report *report)
{
    char comm[32], wait[160], python[128] = "";
    const char *state = name_of_state(id);
    Named named;
    (void)read_task_file(id, "comm", comm, sizeof(comm));
    describe_wait(id, wait, sizeof(wait));
    if (find_named(id, &named)) {
        (void)snprintf(python, sizeof(python), ", %s 0x%016llx", named.label,
                       (unsigned long long)named.ident);
    }
    say("pep788:   %lu %s, %s, %s%s%s\n", id, comm, state, wait, python,
        id == report->finalizer ? ", finalizes" : "");
}

/* As the kernel has it: opendir allocates, and the thread we look for may have
   died in malloc. */
typedef struct {
    uint64_t inode, offset;
    unsigned short length;
    unsigned char type;
    char name[1];
} Entry;

static void
report_native_threads(const Report *report)
{
    static union { char bytes[4096]; uint64_t aligned; } buffer;    /* one watcher */
    unsigned long me = (unsigned long)syscall(SYS_gettid);
    int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        say("pep788: native threads: not known, /proc/self/task cannot be read\n");
        return;
    }
    say("pep788: native threads (id, name, state, place):\n");
    long length;
    while ((length = syscall(SYS_getdents64, folder, buffer.bytes, sizeof(buffer))) > 0) {
        for (long at = 0; at < length;) {
            const Entry *entry = (const Entry *)(const void *)(buffer.bytes + at);
            unsigned long id = strtoul(entry->name, NULL, 10);
            if (id != 0 && id != me) {
                report_thread(id, report);
            }
            at += entry->length;
        }
    }
    (void)close(folder);
}

#else

static void
report_native_threads(const Report *Py_UNUSED(report))
{
    say("pep788: native threads: not known on this system\n");
}

#endif


/* --- Python stacks --------------------------------------------------------- */

#if HAS_PROC
/* In a copy of the process, where nothing moves any more and a crash hurts
   nobody.  Not fork(): its handlers take locks that may never be released, and
   the parent of a child without a signal for its end never sees it. */
static int
dump_in_a_copy(const Report *report)
{
    pid_t copy = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
    if (copy < 0) {
        return -1;
    }
    if (copy == 0) {
        static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM};
        const struct rlimit no_core = {0, 0};
        sigset_t none;
        for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
            (void)signal(deadly[i], SIG_DFL);
        }
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);     /* it holds stderr open */
        (void)alarm(DUMP_LIMIT);
        report->dump(report->dump_signal);
        _exit(0);
    }
    int status;
    while (waitpid(copy, &status, __WALL) < 0) {
        if (errno != EINTR) {
            return 0;
        }
    }
    if (status != 0) {
        say("\npep788: the stacks could not be read to the end\n");
    }
    return 0;
}
#else
static int
dump_in_a_copy(const Report *Py_UNUSED(report))
{
    return -1;
}
#endif

static void
report_stacks(const Report *report)
{
    if (!dumper_is_there(report)) {
        say("pep788: Python stacks: %s\n",
            report->dump == NULL ? "not available: faulthandler.register() failed or found no unused signal"
                                 : "there are none any more");
        return;
    }
    say("pep788: Python stacks of the main interpreter's threads:\n");
    if (dump_in_a_copy(report) < 0) {
        report->dump(report->dump_signal);
    }
}


/* --- the watcher ----------------------------------------------------------- */

static void
write_report(const Report *report, int aborts)
{
    say("\npep788: the process has not ended " TENTHS " after %s began (process %ld, report %d)\n",
        IN_TENTHS(report->waited), report->stage == EXITING ? "its exit" : "finalization",
        (long)getpid(), report->number);
    Stage stage = stage_reached(report);
    say("pep788: stage: %s\npep788:   %s\n", stage.name, stage.advice);
    report_guards();
    report_native_threads(report);
    report_stacks(report);
    if (aborts) {
        say("pep788: the watchdog aborts the process (abort_after=" TENTHS ")\n",
            IN_TENTHS(report->abort_after));
    }
    else {
        say("pep788: end of report %d; the next one follows in " TENTHS
            " unless the process ends\n", report->number, IN_TENTHS(report->pause));
    }
}

static void
prepare_thread(void)
{
#if !defined(_WIN32)
    sigset_t all;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, NULL);
#endif
#if HAS_PROC
    (void)prctl(PR_SET_NAME, "pep788-watchdog");
#endif
}

/* Everything below up to `watch_process` is called with the lock held. */

static double
next_event(void)
{
    double abort_at = watch.abort_after > 0 ? watch.begun + watch.abort_after : watch.due;
    return abort_at < watch.due ? abort_at : watch.due;
}

static void
schedule(void)
{
    watch.due = watch.begun + watch.after;
    watch.pause = watch.after;
    watch.reports = 0;
}

static void
wake_watcher(void)
{
    if (watch.wake != NULL && !watch.posted) {
        watch.posted = 1;
        PyThread_release_lock(watch.wake);
    }
}

static int
is_needed(void)
{
    return watch.begun > 0 && watch.after > 0;
}

/* 1 if the process is to be aborted afterwards. */
static int
take_report(Report *report, double now)
{
    watch.pause *= 2.0;
    watch.due = now + watch.pause;
    report->number = ++watch.reports;
    report->stage = watch.stage;
    report->finalizer = watch.finalizer;
    report->dump_signal = watch.dump_signal;
    report->dump = watch.dump;
    report->waited = now - watch.begun;
    report->abort_after = watch.abort_after;
    report->pause = next_event() - now;
    return watch.abort_after > 0 && report->waited >= watch.abort_after;
}

static void
watch_process(void *Py_UNUSED(ignored))
{
    prepare_thread();
    for (;;) {
        pep788_lock(&watch.lock);
        PyThread_type_lock wake = watch.wake;
        if (!is_needed()) {
            watch.wake = NULL;
            pep788_unlock(&watch.lock);
            PyThread_free_lock(wake);
            return;
        }
        double now = pep788_now(), sleep = next_event() - now;
        Report report;
        int aborts = sleep <= 0 && take_report(&report, now);
        pep788_unlock(&watch.lock);
        if (sleep <= 0) {
            write_report(&report, aborts);
            if (aborts) {
                abort();
            }
            continue;
        }
        sleep = sleep < LONGEST_SLEEP ? sleep : LONGEST_SLEEP;
        if (PyThread_acquire_lock_timed(wake, (PY_TIMEOUT_T)(sleep * 1e6) + 1, 0)
                == PY_LOCK_ACQUIRED) {
            pep788_lock(&watch.lock);
            watch.posted = 0;
            pep788_unlock(&watch.lock);
        }
    }
}

/* Starts the watcher, or wakes it, because what it looks at has changed. */
static void
start_watcher(void)
{
    PyThread_type_lock fresh = PyThread_allocate_lock();
    int start = 0;
    if (fresh != NULL) {
        (void)PyThread_acquire_lock(fresh, WAIT_LOCK);
    }
    pep788_lock(&watch.lock);
    if (is_needed() && watch.wake == NULL && fresh != NULL) {
        watch.wake = fresh;
        watch.posted = 0;
        start = 1;
    }
    else {
        wake_watcher();
    }
    pep788_unlock(&watch.lock);
    if (!start) {
        if (fresh != NULL) {
            PyThread_free_lock(fresh);
        }
        return;
    }
    if (PyThread_start_new_thread(watch_process, NULL) == PYTHREAD_INVALID_THREAD_ID) {
        pep788_lock(&watch.lock);
        watch.wake = NULL;
        pep788_unlock(&watch.lock);
        PyThread_free_lock(fresh);
        say("pep788: the watchdog's thread cannot be started; the end of this process is not watched\n");
    }
}


/* --- what tells the watcher ------------------------------------------------ */

static void
stop_watching(int ended)
{
    pep788_lock(&watch.lock);
    watch.begun = 0;
    watch.stage = 0;
    watch.ended = ended;
    wake_watcher();
    pep788_unlock(&watch.lock);
}

/* Py_AtExit: the last thing in Py_FinalizeEx. */
static void
finalization_ended(void)
{
    pep788_lock(&watch.lock);
    int begun = watch.begun > 0;
    watch.end_watched = 0;
    pep788_unlock(&watch.lock);
    stop_watching(begun);
}

#if !defined(_WIN32)

/* atexit() of C: what follows, static destructors above all, can hang too. */
static void
process_exits(void)
{
    pep788_lock(&watch.lock);
    if (watch.ended) {
        watch.begun = pep788_now();
        schedule();
    }
    watch.stage = EXITING;
    pep788_unlock(&watch.lock);
    start_watcher();
}

/* 3.9-3.11: a leftover subinterpreter of _xxsubinterpreters has the main thread
   ended, and with the last thread the process. */
static void
finalizer_ended(void *Py_UNUSED(value))
{
    pep788_lock(&watch.lock);
    int still = watch.begun > 0 && pthread_equal(watch.finalizer_thread, pthread_self());
    pep788_unlock(&watch.lock);
    if (still) {
        stop_watching(0);
    }
}

static void
after_fork_in_child(void)
{
    pep788_store_relaxed(&watch.lock, (pep788_word)0);
    watch.begun = 0;
    watch.stage = watch.ended = watch.posted = 0;
    watch.wake = NULL;      /* leaked: in whatever state the watcher left it */
}

/* Once a process. */
static int
watch_process_events(void)
{
    static pthread_key_t key;
    static int has_key;
    if (!has_key) {
        if (pthread_key_create(&key, finalizer_ended) != 0
            || pthread_atfork(NULL, NULL, after_fork_in_child) != 0
            || atexit(process_exits) != 0) {
            return -1;
        }
        has_key = 1;
    }
    return pthread_setspecific(key, &watch) == 0 ? 0 : -1;
}

#else

static int
watch_process_events(void)
{
    return 0;
}

#endif

/* The handler that faulthandler has put there. */
static SignalHandler
find_dumper(int number)
{
#if !defined(_WIN32)
    struct sigaction now;
    if (number > 0 && sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO)
        && now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN) {
        return now.sa_handler;
    }
#else
    (void)number;
#endif
    return NULL;
}

PyObject *
watchdog_mark(PyObject *Py_UNUSED(module), PyObject *args)
{
    int stage, number;
    Py_buffer threads;
    if (!PyArg_ParseTuple(args, "iiy*:watchdog_mark", &stage, &number, &threads)) {
        return NULL;
    }
    size_t count = (size_t)threads.len / sizeof(Named);
    size_t most = sizeof(watch.named) / sizeof(watch.named[0]);
    SignalHandler dump = find_dumper(number);
    pep788_lock(&watch.lock);
    int first = watch.begun <= 0;
    if (first) {
        watch.begun = pep788_now();
        watch.ended = 0;
        schedule();
#ifdef PY_HAVE_THREAD_NATIVE_ID
        watch.finalizer = PyThread_get_thread_native_id();
#endif
#if !defined(_WIN32)
        watch.finalizer_thread = pthread_self();
#endif
        watch.dump_signal = number;
        watch.dump = dump;
    }
    watch.stage = stage;
    watch.named_count = count < most ? count : most;
    memcpy(watch.named, threads.buf, watch.named_count * sizeof(Named));
    pep788_unlock(&watch.lock);
    PyBuffer_Release(&threads);
    if (first) {
        if (watch_process_events() < 0) {
            stop_watching(0);
            return PyErr_NoMemory();
        }
        start_watcher();
    }
    Py_RETURN_NONE;
}

/* Once for each Py_Initialize.  Callbacks registered before ours run after it. */
static int
watch_end(void)
{
    pep788_lock(&watch.lock);
    int registered = watch.end_watched;
    watch.end_watched = 1;
    pep788_unlock(&watch.lock);
    if (!registered && Py_AtExit(finalization_ended) < 0) {
        pep788_lock(&watch.lock);
        watch.end_watched = 0;
        pep788_unlock(&watch.lock);
        PyErr_SetString(PyExc_RuntimeError,
                        "the watchdog cannot see the end of finalization: all 32 places of "
                        "Py_AtExit are taken");
        return -1;
    }
    return 0;
}

PyObject *
watchdog_set(PyObject *Py_UNUSED(module), PyObject *args)
{
    double after, abort_after;
    if (!PyArg_ParseTuple(args, "dd:watchdog_set", &after, &abort_after)) {
        return NULL;
    }
    if (watch_end() < 0) {
        return NULL;
    }
    pep788_lock(&watch.lock);
    watch.after = after;
    watch.abort_after = abort_after;
    schedule();
    pep788_unlock(&watch.lock);
    watchdog_trace();
    start_watcher();
    Py_RETURN_NONE;
}

void
watchdog_trace(void)
{
    pep788_lock(&watch.lock);
    int on = watch.after > 0;
    pep788_unlock(&watch.lock);
    const char *trace = getenv("PEP788_TRACE");
    if (on && (trace == NULL || strcmp(trace, "0") != 0)) {
        pep788_store_relaxed(&pep788_shared.trace, (pep788_word)1);
    }
}

PyObject *
watchdog_unused_signal(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    int found = 0;
#if !defined(_WIN32)
#  ifdef SIGRTMAX
    int highest = SIGRTMAX, lowest = SIGRTMIN;
#  else
    int highest = SIGUSR2, lowest = SIGUSR2;
#  endif
    for (int number = highest; number >= lowest && found == 0; number--) {
        struct sigaction now;
        if (sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO)
            && now.sa_handler == SIG_DFL) {
            found = number;
        }
    }
#endif
    return PyLong_FromLong(found);
}
