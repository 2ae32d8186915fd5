/*
 * The state machine of pep788.h on real threads without CPython, for the sanitizers: main and a subinterpreter begin,
 * finalize and begin again while other threads take and close guards as fast as they can, on any record they ever saw.
 *
 * The header's own text is run: sections 2-4 by #include, and what run.py copied out of it into HEADER_FUNCTIONS. What
 * they ask of Python is stubbed: nothing of it is shared between threads. A wake-up that is lost ends the program,
 * because the wait for it does not time out here.
 *
 * Usage: harness SECONDS SEED [fork]; prints one line of numbers. Exit status 0, or an abort that says why.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void post_wake(void *lock);
static void *keep(size_t size);
static void barrier(void);
#define PEP788_ENGINE_ONLY
#define PEP788_POST(lock) post_wake(lock)
#define PEP788_BARRIER() barrier()
#define malloc(size) keep(size)
#include "pep788.h"
#undef malloc

#define TAKERS 4
#define HELD 3              /* guards that a thread may hold at a time */
#define LOST_AFTER 60       /* seconds */

static void fail(const char *what)
{
    fprintf(stderr, "harness: FAILED: %s\n", what);
    abort();
}

enum { PRIVATE_EXPEDITED = 8, PRIVATE_EXPEDITED_REGISTER = 16 };     /* <linux/membarrier.h> */

static int call_membarrier(int command)
{
#ifdef SYS_membarrier
    return (int)syscall(SYS_membarrier, command, 0, 0);
#else
    (void)command;
    return -1;
#endif
}

static void barrier(void)
{
    if (call_membarrier(PRIVATE_EXPEDITED) != 0) {
        fail("membarrier");
    }
}

/* Cells are never freed, because a late close may find them (section 3 of the header): not a leak, they are listed. */
static void *keep(size_t size)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static struct kept { struct kept *next; void *block; } *all;
    struct kept *k = malloc(sizeof(*k));
    void *block = malloc(size);
    if (k == NULL || block == NULL) {
        fail("no memory");
    }
    k->block = block;
    pthread_mutex_lock(&mutex);
    k->next = all;
    all = k;
    pthread_mutex_unlock(&mutex);
    return block;
}

/* ---- what the header asks of Python ---------------------------------------------------------------------------- */

typedef struct { int unused; } PyObject;
typedef struct _ts { int uses; } PyThreadState;
typedef struct { int unused; } PyInterpreterState;
typedef enum { PEP788_NOT_FINAL, PEP788_PERHAPS, PEP788_FINAL } pep788_end;
typedef enum {
    PEP788_OK, PEP788_NOT_INITIALIZED, PEP788_FINALIZING, PEP788_GONE, PEP788_NO_MEMORY
} Pep788_Failure;
typedef struct { unsigned everywhere, shard; Pep788_Failure failure; } pep788_thread;

typedef struct wake_lock {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int held;
    struct wake_lock *next;     /* all of them: never freed in CPython's life either */
} *PyThread_type_lock;
enum { WAIT_LOCK = 1, PY_LOCK_FAILURE = 0, PY_LOCK_ACQUIRED = 1 };

static struct {
    pep788_record main;
    pep788_ops ops;
    pep788_word subs, pool_lock, trace, threads, symbols;
    pep788_coordinator *pool;
} pep788_shared;
static __thread pep788_thread pep788_tls;
static __thread int rounds;                 /* G6: so often something appears */
static __thread pep788_coordinator *coming; /* what pep788_coordinate gives */
static unsigned pep788_thread_depth(pep788_record *r) { (void)r; return pep788_tls.everywhere; }
static PyObject truth, tuple;
static int flavour;                         /* 1: as 3.14 (subinterpreters end before the flag) */
static PyThread_type_lock all_locks;
static pthread_mutex_t all_locks_mutex = PTHREAD_MUTEX_INITIALIZER;
static PyInterpreterState main_interp;
static pep788_word main_there;              /* atomic */

static PyThread_type_lock PyThread_allocate_lock(void)
{
    PyThread_type_lock lock = calloc(1, sizeof(*lock));
    if (lock == NULL) {
        return NULL;
    }
    pthread_mutex_init(&lock->mutex, NULL);
    pthread_cond_init(&lock->changed, NULL);
    pthread_mutex_lock(&all_locks_mutex);
    lock->next = all_locks;
    all_locks = lock;
    pthread_mutex_unlock(&all_locks_mutex);
    return lock;
}

static int take_lock(PyThread_type_lock lock, double seconds)
{
    struct timespec end;
    int late = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (time_t)seconds;
    end.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock->mutex);
    while (lock->held && !late) {
        late = pthread_cond_timedwait(&lock->changed, &lock->mutex, &end) == ETIMEDOUT;
    }
    if (!lock->held) {
        lock->held = 1;
        late = 0;
    }
    pthread_mutex_unlock(&lock->mutex);
    return !late;
}

static int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
{
    (void)wait;
    if (!take_lock(lock, LOST_AFTER)) {
        fail("a post that was under way did not come");
    }
    return 1;
}

/* Short waits have a purpose (PEP788_GIVE_UP_AFTER); the usual 0.1 s only bound the delay of signals. */
static int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long us, int intr)
{
    (void)intr;
    if (us < 100000) {
        return take_lock(lock, (double)us / 1e6) ? PY_LOCK_ACQUIRED : PY_LOCK_FAILURE;
    }
    if (!take_lock(lock, LOST_AFTER)) {
        fail("lost wake-up: nobody posted the finalizing thread (G8)");
    }
    return PY_LOCK_ACQUIRED;
}

static void post_wake(void *object)
{
    PyThread_type_lock lock = object;
    pthread_mutex_lock(&lock->mutex);
    if (!lock->held) {
        fail("the finalizing thread was posted twice");
    }
    lock->held = 0;
    pthread_cond_signal(&lock->changed);
    pthread_mutex_unlock(&lock->mutex);
}

#define Py_XDECREF(object) ((void)(object))
#define Py_True (&truth)
#define PyErr_Clear() ((void)0)
#define PyErr_NoMemory() fail("no memory")
#define PyErr_Fetch(type, value, tb) ((void)(*(type) = *(value) = *(tb) = NULL))
#define PyErr_Restore(type, value, tb) ((void)(type), (void)(value), (void)(tb))
#define Py_None (&truth)

static void PySys_FormatStderr(const char *format, ...)
{
    char text[300];
    va_list args;
    va_start(args, format);
    if (strstr(format, "%R") == NULL) {
        (void)vsnprintf(text, sizeof(text), format, args);      /* to have the arguments looked at */
    }
    va_end(args);
}

static PyObject *PyLong_FromUnsignedLong(unsigned long value) { (void)value; return &truth; }
static PyObject *PyDict_GetItemString(PyObject *dict, const char *key) { (void)dict; (void)key; return &truth; }
#define PyObject_CallFunctionObjArgs(function, ...) ((void)(function), &truth)
static PyObject *PyTuple_GetItem(PyObject *object, int i) { (void)object; return i ? &truth : NULL; }
static long PyList_Size(PyObject *object) { (void)object; return 0; }
static void *PyCapsule_GetPointer(PyObject *capsule, const char *name) { (void)name; return capsule; }
#define PEP788_CAPSULE "capsule"
static PyThreadState *PyEval_SaveThread(void) { return NULL; }
static void PyEval_RestoreThread(PyThreadState *tstate) { (void)tstate; }
static int PyErr_CheckSignals(void) { return 0; }
static int Py_MakePendingCalls(void);
static unsigned long PyThread_get_thread_ident(void) { return (unsigned long)pthread_self(); }
#define pep788_visit_main(interp, call, arg) ((call)(arg), 0)
static void pep788_set_up_main(void *interp) { (void)interp; fail("main was visited"); }
static PyInterpreterState *PyInterpreterState_Get(void) { return &main_interp; }
static PyInterpreterState *pep788_main_interp(void)
{
    return pep788_load_acquire(&main_there) ? &main_interp : NULL;
}
static int pep788_current_is_thread_local(void) { return 1; }
static int pep788_subs_end_before_flag(void) { return flavour; }
static int pep788_atexit_survives_clear(void) { return flavour; }
static int pep788_too_late(void) { return 0; }
static pep788_end pep788_classify(pep788_coordinator *c) { return c->is_main ? PEP788_PERHAPS : PEP788_FINAL; }
static void pep788_rearm(pep788_coordinator *c) { (void)c; }
static void pep788_revive_soon(pep788_coordinator *c) { (void)c; }
static int pep788_is_there(PyThreadState *tstate, uint64_t id) { (void)tstate; (void)id; return 1; }
static void PyThreadState_Clear(PyThreadState *tstate) { tstate->uses++; }
static void PyThreadState_Delete(PyThreadState *tstate) { tstate->uses++; }
static __thread struct { pep788_kept *first; } pep788_kept_tls;
static struct { pep788_word lock; } pep788_kept_shared;
static void pep788_forget_gilstate_key(void) { }
static void pep788_interrupted(PyObject *tools) { (void)tools; }
static void pep788_raise_finalizing(void) { }
static void pep788_look_up(void) { }
static void pep788_find_thread_id(void) { }
static void pep788_watch_forks(void) { }
static void pep788_find_gilstate_key(int renew) { (void)renew; }
static void pep788_choose_fence(int early) { (void)early; }
static int pep788_wants_trace(int always);
static const char *pep788_module_name(void) { return "harness"; }
static int pep788_arm(pep788_coordinator *c)
{
    pep788_store_release(&c->seam, PEP788_SEAM_ARMED);
    return 0;
}
static pep788_coordinator *pep788_coordinate(PyInterpreterState *interp) { (void)interp; return coming; }
static PyObject *pep788_tools(void) { return &tuple; }
static PyObject *pep788_call(PyObject *tools, const char *name, PyObject *argument)
{
    (void)tools;
    (void)argument;
    if (strcmp(name, "appeared") == 0) {
        return rounds > 0 ? &tuple : NULL;
    }
    if (strcmp(name, "work") == 0) {
        rounds--;
    }
    return &tuple;
}
static pep788_record *pep788_set_up(PyInterpreterState *interp);

#include HEADER_FUNCTIONS

/* ---- the harness ----------------------------------------------------------------------------------------------- */

static pep788_record other_copy;        /* a second module's, always on main */
static pep788_ops other_ops;
static pep788_word stop, pause_all, paused, entered;
static pep788_word life;                /* odd: main is closed for good or until the next life */
static pep788_word sub_view;            /* a record with one reference more, or 0 */
static pep788_word mailbox;             /* a guard that another thread closes */
static pep788_kept entries[TAKERS];      /* one kept state of main for each thread */
static PyThreadState states[TAKERS];
static pep788_word light_uses;
static pep788_word taken, refused, lives, sub_lives, gave_up, forks, late_closes;

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void count(pep788_word *what)
{
    (void)__atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

static int Py_MakePendingCalls(void)
{
    /* A queued call that needs a guard to finish; it may have been closed by PEP788_GIVE_UP_AFTER elsewhere. */
    pep788_word guard = pep788_open_guard(&pep788_tls, &pep788_shared.main);
    if (guard != 0) {
        pep788_close_guard(guard);
    }
    return 0;
}

static int pep788_wants_trace(int always)
{
    (void)always;
    return (int)(pep788_load_relaxed(&lives) & 1);
}

/* Waits while main() does what needs all threads to stand still; guards stay open meanwhile. */
static void maybe_pause(void)
{
    if (pep788_load_acquire(&pause_all)) {
        (void)pep788_add_acq_rel(&paused, (pep788_word)1);
        while (pep788_load_acquire(&pause_all)) {
            sched_yield();
        }
        (void)pep788_sub_seq_cst(&paused, (pep788_word)1);
    }
}

static pep788_word open_checked(pep788_record *r, int is_main)
{
    pep788_word before = pep788_load_seq_cst(&life);
    pep788_word guard = pep788_open_guard(&pep788_tls, r);
    pep788_word after = pep788_load_seq_cst(&life);
    if (is_main && guard != 0 && before == after && (before & 1)) {
        fail("a guard was handed out after the close (G7)");
    }
    count(guard != 0 ? &taken : &refused);
    return guard;
}

/* A view of the present subinterpreter: its record with a reference, or NULL. */
static pep788_record *view_of_sub(void)
{
    pep788_word r = pep788_exchange_seq_cst(&sub_view, (pep788_word)0);
    if (r != 0) {
        (void)pep788_add_acq_rel(&((pep788_record *)r)->refs, (pep788_word)1);
        pep788_word none = 0;
        if (!pep788_cas_seq_cst(&sub_view, &none, r)) {
            (void)pep788_sub_seq_cst(&((pep788_record *)r)->refs, (pep788_word)1);   /* a newer one is there */
        }
    }
    return (pep788_record *)r;
}

/* As EnsureKept and ReleaseKept; a deleted state is made anew, with a guard. */
static void use_kept(pep788_kept *k)
{
    pep788_word before = pep788_load_seq_cst(&life), after;
    if (pep788_light_on(&pep788_shared.main, k)) {
        k->tstate->uses++;      /* not atomic: who deletes it must have seen this */
        after = pep788_load_seq_cst(&life);
        if (before == after && (before & 1)) {
            fail("a kept state was used after the close (G7)");
        }
        pep788_light_off(&pep788_shared.main, k);
        count(&light_uses);
    }
    else if (pep788_load_acquire(&k->state) == PEP788_KEPT_GONE) {
        pep788_word guard = open_checked(&pep788_shared.main, 1);
        if (guard != 0) {
            pep788_lock(&k->home->lock);
            pep788_unlock(&k->home->lock);
            pep788_store_release(&k->state, PEP788_KEPT_BUSY);
            pep788_link_kept(k);
            k->tstate->uses++;
            pep788_store_release(&k->state, PEP788_KEPT_IDLE);
            pep788_close_guard(guard);
        }
    }
}

static void *taker(void *argument)
{
    pep788_kept *k = &entries[pep788_add_acq_rel(&entered, (pep788_word)1)];
    uint32_t random = (uint32_t)(uintptr_t)argument;
    pep788_word held[HELD] = {0, 0, 0};
    pep788_record *sub = NULL;
    while (!pep788_load_acquire(&stop)) {
        uint32_t what = next_random(&random);
        unsigned i = what % HELD;
        maybe_pause();
        if (what & 0x4000) {
            use_kept(k);
        }
        else if (held[i] != 0) {
            if (what & 64) {        /* another thread closes it */
                held[i] = pep788_exchange_seq_cst(&mailbox, held[i]);
            }
            if (held[i] != 0) {
                pep788_close_guard(held[i]);
                held[i] = 0;
            }
        }
        else if ((what & 0x700) == 0) {
            if (sub != NULL) {
                (void)pep788_sub_seq_cst(&sub->refs, (pep788_word)1);
            }
            sub = view_of_sub();
        }
        else if ((what & 0x800) && sub != NULL) {
            held[i] = open_checked(sub, 0);     /* maybe long gone */
        }
        else {
            held[i] = open_checked(what & 0x1000 ? &other_copy : &pep788_shared.main, 1);
            if (held[i] == 0) {     /* a guard in the mailbox may be what finalization waits for */
                held[i] = pep788_exchange_seq_cst(&mailbox, (pep788_word)0);
            }
        }
        if (held[i] != 0 && (what & 0x2000)) {  /* inside an Ensure: may take what it needs */
            pep788_word inner;
            pep788_tls.everywhere++;
            inner = pep788_open_guard(&pep788_tls, &pep788_shared.main);
            if (inner != 0) {
                pep788_close_guard(inner);
            }
            pep788_tls.everywhere--;
        }
        if ((what & 0xff0000) == 0) {
            sched_yield();
        }
    }
    for (int i = 0; i < HELD; i++) {
        if (held[i] != 0) {
            pep788_close_guard(held[i]);
        }
    }
    if (sub != NULL) {
        (void)pep788_sub_seq_cst(&sub->refs, (pep788_word)1);
    }
    return NULL;
}

static pep788_coordinator *begin(int is_main, PyInterpreterState *interp, uint32_t what)
{
    pep788_coordinator *c = pep788_new_coordinator();
    if (c == NULL) {
        fail("no memory");
    }
    c->is_main = is_main;
    c->id = is_main ? 0 : (int64_t)pep788_load_relaxed(&sub_lives) + 1;
    c->report_after = what & 1 ? 0.001 : 1e9;
    c->give_up_after = (what & 0xe) == 0 ? 0.001 : -1.0;
    pep788_store_release(&c->interp, (pep788_word)interp);
    if (is_main) {
        pep788_store_release(&c->main, (pep788_word)c);
    }
    coming = c;
    return c;
}

/* One subinterpreter after the other, while main lives. */
static void *sub_thread(void *argument)
{
    uint32_t random = (uint32_t)(uintptr_t)argument ^ 0x5eed;
    PyInterpreterState interp;
    int times = (int)(next_random(&random) % 3);
    while (times-- > 0) {
        pep788_coordinator *c = begin(0, &interp, next_random(&random));
        pep788_record *r = pep788_set_up(&interp);
        pep788_word last;
        (void)pep788_add_acq_rel(&r->refs, (pep788_word)1);
        last = pep788_exchange_seq_cst(&sub_view, (pep788_word)r);
        if (last != 0) {
            (void)pep788_sub_seq_cst(&((pep788_record *)last)->refs, (pep788_word)1);
        }
        for (uint32_t i = next_random(&random) % 200; i > 0; i--) {
            pep788_word guard = open_checked(r, 0);
            if (guard != 0) {
                pep788_close_guard(guard);
            }
        }
        rounds = (int)(next_random(&random) % 2);
        pep788_seam(c);
        pep788_interpreter_gone((PyObject *)c);
        count(&sub_lives);
    }
    return NULL;
}

static size_t open_on(pep788_record *r)
{
    return pep788_record_count(r);
}

/* F1: everything stands still, then this process goes on as the child would, with the parent's guards still open. */
static void as_in_child(int really)
{
    pep788_store_release(&pause_all, (pep788_word)1);
    while (pep788_load_acquire(&paused) != TAKERS) {
        sched_yield();
    }
    pep788_before_fork();
    /* The other copy's handlers do the same for its record. */
    if (other_copy.spare[0] == NULL && !pep788_new_pair(other_copy.spare, &other_copy)) {
        fail("no memory");
    }
    if (really) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            pep788_word guard;
            pep788_in_child();
            pep788_after_fork_in_child(&other_copy);
            guard = pep788_open_guard(&pep788_tls, &pep788_shared.main);
            if (guard == 0) {
                fail("the child was refused a guard (F1)");
            }
            pep788_close_guard(guard);
            pep788_seam(PEP788_PTR(pep788_coordinator, pep788_shared.main.coordinator));
            if (pep788_open_guard(&pep788_tls, &pep788_shared.main) != 0) {
                fail("the child got a guard after its end (G7)");
            }
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            fail("the child of a fork did not end normally (F1)");
        }
    }
    else {
        pep788_after_fork_in_child(&other_copy);
        pep788_in_child();
        for (int i = 0; i < TAKERS; i++) {      /* of threads that are not there, in a child */
            pep788_store_release(&entries[i].state, PEP788_KEPT_GONE);
        }
        if (open_on(&pep788_shared.main) != 0 || open_on(&other_copy) != 0) {
            fail("guards of the parent count in the child (F1)");
        }
    }
    count(&forks);
    pep788_store_release(&pause_all, (pep788_word)0);
    while (pep788_load_acquire(&paused) != 0) {
        sched_yield();
    }
}

static void one_life(uint32_t *random, int really_fork)
{
    pthread_t sub;
    pep788_coordinator *c = begin(1, &main_interp, next_random(random));
    int revivals = (int)(next_random(random) % 3);
    flavour = next_random(random) % 4 == 0;     /* nobody else runs Python now */
    pep788_store_seq_cst(&life, pep788_load_relaxed(&life) + 1);    /* even: open */
    if (pep788_set_up(&main_interp) != &pep788_shared.main) {
        fail("main was not set up");
    }
    pep788_store_release(&main_there, (pep788_word)1);
    pep788_lock(&c->lock);
    other_copy.ops = &other_ops;
    other_copy.name = "other";
    if (other_copy.pair[0] == NULL || open_on(&other_copy) != 0) {
        pep788_cell *pair[2];
        if (!pep788_new_pair(pair, &other_copy)) {
            fail("no memory");
        }
        pep788_lock(&other_copy.traced_lock);
        other_copy.traced = NULL;
        other_copy.pair[0] = pair[0];
        other_copy.pair[1] = pair[1];
        pep788_unlock(&other_copy.traced_lock);
    }
    pep788_join_locked(c, &other_copy);
    pep788_unlock(&c->lock);
    for (;;) {
        if (next_random(random) % 8 == 0) {
            as_in_child(really_fork);
        }
        if (pthread_create(&sub, NULL, sub_thread, (void *)(uintptr_t)next_random(random)) != 0) {
            fail("no thread");
        }
        rounds = (int)(next_random(random) % 3);
        pep788_seam(c);
        if (c->give_up_after < 0.0 && (open_on(&pep788_shared.main) != 0 || open_on(&other_copy) != 0)) {
            fail("main ended with an open guard (G3)");
        }
        pep788_store_seq_cst(&life, pep788_load_relaxed(&life) + 1);
        pthread_join(sub, NULL);
        if (open_on(&pep788_shared.main) != 0 || open_on(&other_copy) != 0) {
            count(&gave_up);
        }
        if (flavour || revivals-- == 0) {
            break;
        }
        pep788_store_seq_cst(&life, pep788_load_relaxed(&life) + 1);
        (void)pep788_revive(c);
    }
    pep788_store_release(&main_there, (pep788_word)0);
    pep788_interpreter_gone((PyObject *)c);
    count(&lives);
}

static unsigned no_depth(pep788_record *r) { (void)r; return 0; }
static void nothing_here(void) { }

int main(int argc, char **argv)
{
    pthread_t takers[TAKERS];
    uint32_t random = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1;
    int i, really_fork = argc > 3 && strcmp(argv[3], "fork") == 0;
    int membarrier_works;       /* else all kept states are FENCED */
    double end = pep788_now() + (argc > 1 ? atof(argv[1]) : 1.0);
    life = 1;
    pep788_shared.ops.abi = other_ops.abi = PEP788_ABI;
    pep788_shared.ops.thread_depth = pep788_thread_depth;
    pep788_shared.ops.finalizes_here = other_ops.finalizes_here = nothing_here;
    other_ops.thread_depth = no_depth;
    pep788_shared.main.shards = other_copy.shards = PEP788_SHARDS;
    pep788_shared.ops.drop_kept = other_ops.drop_kept = pep788_drop_kept;
    membarrier_works = call_membarrier(PRIVATE_EXPEDITED_REGISTER) == 0;
    for (i = 0; i < TAKERS; i++) {
        entries[i].state = PEP788_KEPT_GONE;
        entries[i].home = &pep788_shared.main.home;
        entries[i].tstate = &states[i];
        entries[i].fence = membarrier_works && i % 2 ? PEP788_MEMBARRIER : PEP788_FENCED;
    }
    for (i = 0; i < TAKERS; i++) {
        if (pthread_create(&takers[i], NULL, taker, (void *)(uintptr_t)next_random(&random)) != 0) {
            fail("no thread");
        }
    }
    do {
        one_life(&random, really_fork);
    } while (pep788_now() < end);
    pep788_store_release(&stop, (pep788_word)1);
    for (i = 0; i < TAKERS; i++) {
        pthread_join(takers[i], NULL);
    }
    if (mailbox != 0) {
        pep788_close_guard(mailbox);
    }
    printf("%zu lives of main, %zu of subinterpreters, %zu guards taken, %zu refused, %zu ends with guards open "
           "(gave up), %zu kept states used without, %zu forks\n", (size_t)lives, (size_t)sub_lives, (size_t)taken,
           (size_t)refused, (size_t)gave_up, (size_t)light_uses, (size_t)forks);
    return 0;
}
