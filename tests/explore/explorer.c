/*
 * Explores every interleaving of a few threads that run the state machine of pep788.h.
 *
 * The code under test is the header's own text: sections 2-4 by #include, and the functions around them that touch
 * the same words (pep788_sleep, pep788_wait_and_close, ...) copied out of the header by run.py into HEADER_FUNCTIONS.
 * Only the atomic operations are swapped: each one hands control to the scheduler first. A state is the arena (all
 * shared data), the live part of each thread's stack and its registers; the search is depth first over states, from
 * copies of them, and never explores a state twice. So the number of states is small although the number of
 * interleavings, which is counted, is not.
 *
 * Left out are only interleavings that differ from explored ones in nothing a thread can notice. A loop that waits
 * (PEP788_SPIN, a spin lock) blocks until the word it looks at changes. Loads of words that no other thread can write
 * at that time (constants; phase and current under their lock) happen with the operation before them; it is checked
 * that those words are written under the lock only. So do operations on words that no other thread of the scenario ever
 * looks at (what kept states need, where nobody keeps one).
 *
 * Memory: sequential consistency, or with -DTSO a store buffer per thread (x86): what is not a read-modify-write or a
 * seq_cst store may become visible to others later.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#ifndef TSO
#  define TSO 0
#endif

/* Cells in a row: 1, all threads share one; 2, two do and one has its own. */
#ifndef SHARDS
#  define SHARDS 1
#endif

#define THREADS 3
#define STACK 16384
#define BUFFER 4            /* stores that one thread may have under way */
#define MAX_CELLS (16 * SHARDS)
#define MAX_COORDINATORS 3
#define MAX_RECORDS 4

typedef uintptr_t word_t;

/* ---- threads and memory ---------------------------------------------------------------------------------------- */

enum { STEP, DRAINED, LOCK, SPIN, TAKE, TAKE_TIMED, CHOOSE, AWAIT };

typedef struct {
    char *stack_low;
    int done, pending, ways, chosen, depth, other_depth, rounds, timeouts, limit;
    const char *what;
    const word_t *at;
    word_t value;
    int stores;
    struct { word_t *at; word_t value; } buffer[BUFFER];
    /* the pep788_enter under way */
    void *entering;
    int saw_refusal, saw_closed, closed_at_call;
    /* the pep788_leave under way */
    void *leaving;
    int leaving_wait, leaving_kept;
} thread_t;

static struct arena {
    thread_t thread[THREADS];
    /* what the checks know, apart from the header's own data */
    word_t open[MAX_CELLS];                      /* guards handed out and not yet given back */
    int old_open[MAX_COORDINATORS];              /* of those, the ones older than the present wait */
    int waits[MAX_COORDINATORS];                 /* number of the present wait */
    int reopening[MAX_COORDINATORS], abandoned[MAX_COORDINATORS], closed[MAX_COORDINATORS];
    int closed_by_own_wait[MAX_COORDINATORS];
    int owner[MAX_COORDINATORS];                 /* thread + 1 that has the spin lock */
    word_t shared[8];                            /* of scenarios */
    int lit[THREADS];                            /* uses its kept state without a guard */
    int guard_wait[THREADS];                     /* the wait during which one was taken for it */
    jmp_buf context[THREADS];
    size_t used;
    _Alignas(64) char bytes[3072 + 1024 * SHARDS];
} arena;

static _Alignas(64) char stacks[THREADS][STACK];
static thread_t *me;
static jmp_buf scheduler;
static const word_t *last_at;
static word_t last_value;
static int advanced;        /* the step did more than look */

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void after_write(word_t *at, word_t before, word_t after, int is_sub);
static void note(const char *what, const word_t *at, word_t value, word_t result, const char *more);
static int nobody_can_write(const word_t *at);
static int is_lock(const word_t *at);
static int nobody_looks_at(const word_t *at);

static void *allocate(size_t size)
{
    void *p;
    arena.used = (arena.used + 15) & ~(size_t)15;
    p = arena.bytes + arena.used;
    arena.used += size;
    if (arena.used > sizeof(arena.bytes)) {
        fprintf(stderr, "explorer: the arena is full, enlarge it\n");
        exit(2);
    }
    return p;
}

/* Clears what earlier calls left below, so that equal states have equal bytes; tells where the stack ends. */
static __attribute__((noinline)) char *scrub(void)
{
    char dirt[512];
    memset(dirt, 0, sizeof(dirt));
    __asm__ volatile("" : : "r"(dirt) : "memory");
    return (char *)__builtin_frame_address(0);
}

static __attribute__((noinline)) void pause_thread(void)
{
    me->stack_low = scrub();
    if (_setjmp(arena.context[me - arena.thread]) == 0) {
        _longjmp(scheduler, 1);
    }
}

static void pause_for(int pending, const char *what, const word_t *at, word_t value)
{
    me->pending = pending;
    me->what = what;
    me->at = at;
    me->value = value;
    pause_thread();
}

static word_t read_memory(const word_t *at)
{
    int i;
    for (i = me->stores; i-- > 0;) {
        if (me->buffer[i].at == at) {
            return me->buffer[i].value;
        }
    }
    return *at;
}

static void flush_one(thread_t *t)
{
    word_t *at = t->buffer[0].at, before = *at;
    *at = t->buffer[0].value;
    memmove(t->buffer, t->buffer + 1, sizeof(t->buffer[0]) * (BUFFER - 1));
    memset(&t->buffer[--t->stores], 0, sizeof(t->buffer[0]));
    after_write(at, before, *at, 0);
}

static word_t explore_load(const word_t *at, const char *what)
{
    if (nobody_looks_at(at)) {
        return *at;
    }
    if (!nobody_can_write(at)) {
        pause_for(STEP, what, at, 0);
    }
    last_at = at;
    last_value = read_memory(at);
    note(what, at, 0, last_value, "");
    return last_value;
}

static void explore_store(word_t *at, word_t value, const char *what, int buffered)
{
    word_t before;
    if (nobody_looks_at(at)) {
        *at = value;
        return;
    }
    pause_for(buffered ? STEP : DRAINED, what, at, value);
    advanced = 1;
    if (buffered && TSO) {
        if (me->stores == BUFFER) {
            flush_one(me);
        }
        me->buffer[me->stores].at = at;
        me->buffer[me->stores++].value = value;
        note(what, at, value, value, " (buffered)");
        return;
    }
    before = *at;
    *at = value;
    note(what, at, value, value, "");
    after_write(at, before, value, 0);
}

static word_t explore_exchange(word_t *at, word_t value, const char *what)
{
    word_t before;
    pause_for(DRAINED, what, at, value);
    advanced = 1;
    before = *at;
    *at = value;
    note(what, at, value, before, " was");
    after_write(at, before, value, 0);
    return before;
}

static word_t explore_add(word_t *at, word_t value, const char *what)
{
    word_t before;
    pause_for(DRAINED, what, at, value);
    advanced = 1;
    before = *at;
    *at = before + value;
    note(what, at, 0, before + value, " now");
    after_write(at, before, *at, (intptr_t)value < 0);
    return before;
}

static int explore_cas(word_t *at, word_t *expected, word_t value, const char *what)
{
    if (nobody_looks_at(at)) {
        *at = value;
        return 1;
    }
    pause_for(is_lock(at) && *expected == 0 ? LOCK : DRAINED, what, at, value);
    last_at = at;
    last_value = *at;
    if (*at != *expected) {
        note(what, at, value, *at, " failed, is");
        *expected = *at;
        return 0;
    }
    advanced = 1;
    *at = value;
    note(what, at, value, value, "");
    after_write(at, *expected, value, 0);
    return 1;
}

static void explore_spin(void)
{
    pause_for(SPIN, "spin until it changes", last_at, last_value);
    note("saw a change", last_at, 0, *last_at, "");
}

/* membarrier: the store buffers of all threads become visible; sequential consistency has none. */
static void explore_barrier(void)
{
    if (TSO) {
        thread_t *caller = me;
        int i;
        pause_for(DRAINED, "membarrier", NULL, 0);
        for (i = 0; i < THREADS; i++) {
            me = &arena.thread[i];
            while (me->stores > 0) {
                flush_one(me);
            }
        }
        me = caller;
        note("membarrier", NULL, 0, 0, "");
    }
}

static int explore_choose(int ways, const char *what)
{
    me->ways = ways;
    pause_for(CHOOSE, what, NULL, 0);
    note(what, NULL, 0, (word_t)me->chosen, " chosen");
    return me->chosen;
}

/* Blocks until a word of a scenario has this value. */
static void await(const word_t *at, word_t value)
{
    pause_for(AWAIT, "await", at, value);
    note("await", at, value, value, "");
}

/* ---- the header ------------------------------------------------------------------------------------------------ */

#define PEP788_CUSTOM_ATOMICS
#define pep788_load_relaxed(p) explore_load((p), "load relaxed")
#define pep788_load_acquire(p) explore_load((p), "load acquire")
#define pep788_load_seq_cst(p) explore_load((p), "load seq_cst")
#define pep788_store_relaxed(p, v) explore_store((p), (v), "store relaxed", 1)
#define pep788_store_release(p, v) explore_store((p), (v), "store release", 1)
#define pep788_store_seq_cst(p, v) explore_store((p), (v), "store seq_cst", 0)
#define pep788_exchange_seq_cst(p, v) explore_exchange((p), (v), "exchange")
#define pep788_sub_seq_cst(p, v) explore_add((p), (word_t)0 - (v), "sub")
#define pep788_add_acq_rel(p, v) explore_add((p), (v), "add")
#define pep788_cas_seq_cst(p, e, v) explore_cas((p), (e), (v), "cas")
#define pep788_fence_compiler() ((void)0)
#define PEP788_BARRIER() explore_barrier()
#define PEP788_SPIN(turns) ((void)(turns), explore_spin())
#define PEP788_POST(lock) post_wake(lock)
#define PEP788_ENGINE_ONLY
#define PEP788_NOT_INLINE static inline
#define PEP788_SHARDS SHARDS
#define PEP788_SHARD() shard_of((int)(me - arena.thread))
#define malloc(size) allocate(size)

static size_t shard_of(int thread)
{
    return (size_t)thread % SHARDS;
}

static void post_wake(void *lock)
{
    word_t *semaphore = (word_t *)lock;
    pause_for(DRAINED, "post", semaphore, 1);
    note("post", semaphore, 1, *semaphore + 1, " now");
    if (*semaphore != 0) {
        fail("the waiting thread was posted twice");
    }
    *semaphore = 1;
}

#include "pep788.h"

/* What the functions of sections 5-7 ask of Python. Strings say what, no object exists. */
typedef struct { int unused; } PyObject;
typedef struct _ts PyThreadState;
typedef struct { int unused; } PyInterpreterState;
typedef word_t *PyThread_type_lock;
enum { WAIT_LOCK = 1, PY_LOCK_FAILURE = 0, PY_LOCK_ACQUIRED = 1 };
#define PyExc_KeyboardInterrupt NULL
#define Py_XDECREF(object) ((void)(object))
#define PyErr_Clear() ((void)0)

static struct shared {
    pep788_record main;
    pep788_word subs, pool_lock, symbols;
} *shared_data;
#define pep788_shared (*shared_data)

typedef struct { int everywhere; } tls_t;
#define pep788_tls (*tls())

static unsigned pep788_thread_depth(pep788_record *r) { (void)r; return (unsigned)me->depth; }

static PyObject truth, tuple;
#define Py_True (&truth)

static tls_t *tls(void)
{
    return (tls_t *)(void *)&me->depth;
}

static int subs_end_before_flag;     /* of the scenario: 3.14+ */
static int pep788_subs_end_before_flag(void) { return subs_end_before_flag; }
static int pep788_current_is_thread_local(void) { return 1; }

static PyThread_type_lock PyThread_allocate_lock(void)
{
    PyThread_type_lock lock = allocate(sizeof(word_t));
    *lock = 1;
    return lock;
}

static int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
{
    (void)wait;
    pause_for(TAKE, "take", lock, 1);
    *lock -= 1;
    note("take", lock, 1, *lock, " now");
    return 1;
}

static int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long us, int intr)
{
    (void)us;
    (void)intr;
    pause_for(TAKE_TIMED, "sleep", lock, 1);
    if (me->chosen == 1) {
        me->timeouts--;
        note("sleep timed out", lock, 0, *lock, "");
        return PY_LOCK_FAILURE;
    }
    *lock -= 1;
    note("woken", lock, 1, *lock, " now");
    return PY_LOCK_ACQUIRED;
}

static pep788_coordinator *coordinators[MAX_COORDINATORS];
static pep788_record *records[MAX_RECORDS];
static int n_coordinators, n_records;
static pep788_record *late_r;        /* of the scenario: joins later */
static int linking;                  /* of the scenario: the subinterpreter is linked later */
static pep788_coordinator *waited_by[THREADS];  /* whose finalization a thread runs */

static PyThreadState *PyEval_SaveThread(void) { return NULL; }

/* pep788_sleep ends here: nothing may be left over. */
static void PyEval_RestoreThread(PyThreadState *tstate)
{
    pep788_coordinator *c = waited_by[me - arena.thread];
    (void)tstate;
    if (c != NULL && c->wake != NULL && *(word_t *)c->wake != 0) {
        fail("the wake lock is free after the sleep");
    }
    if (c != NULL && c->waiting != 0) {
        fail("`waiting` is still set after the sleep");
    }
}

static double explore_now(void)
{
    return me->limit && explore_choose(2, "time is up?") ? 100.0 : 0.0;
}

static PyObject *pep788_tools(void) { return &tuple; }
static int PyErr_CheckSignals(void);
static int Py_MakePendingCalls(void);
static void pep788_interrupted(PyObject *tools) { (void)tools; }
static void pep788_report(pep788_coordinator *first, int all, double waited, int gave_up, PyObject *tools)
{
    (void)first; (void)all; (void)waited; (void)gave_up; (void)tools;
}
static PyObject *PyTuple_GetItem(PyObject *object, int i) { (void)object; return i ? &truth : NULL; }
static long PyList_Size(PyObject *object) { (void)object; return 0; }

/* "appeared": something new as often as the scenario says. */
static PyObject *pep788_call(PyObject *tools, const char *name, PyObject *argument)
{
    (void)tools;
    (void)argument;
    if (strcmp(name, "appeared") == 0) {
        return me->rounds > 0 ? &tuple : NULL;
    }
    if (strcmp(name, "work") == 0) {
        me->rounds--;
    }
    return &tuple;
}

/* What pep788_seam finds out about the end that is coming. */
typedef enum { PEP788_NOT_FINAL, PEP788_PERHAPS, PEP788_FINAL } pep788_end;
static pep788_end end_of_main;       /* of the scenario */
static pep788_end pep788_classify(pep788_coordinator *c) { return c->is_main ? end_of_main : PEP788_FINAL; }
static int pep788_too_late(void) { return 0; }
static int pep788_atexit_survives_clear(void) { return subs_end_before_flag; }
static void pep788_rearm(pep788_coordinator *c) { (void)c; }
static void pep788_revive_soon(pep788_coordinator *c) { (void)c; }
static void pep788_forget_gilstate_key(void) { }
static int pep788_is_there(PyThreadState *tstate, uint64_t id) { (void)tstate; (void)id; return 1; }
static void PyThreadState_Clear(PyThreadState *tstate);
static void PyThreadState_Delete(PyThreadState *tstate) { (void)tstate; }
#define free(block) ((void)(block))

/* Of each thread. */
static struct { pep788_kept *first; } kept_of[THREADS];     /* constant while threads run */
#define pep788_kept_tls (kept_of[me - arena.thread])
static struct { word_t lock; } pep788_kept_shared;
static PyInterpreterState *PyInterpreterState_Get(void) { return (PyInterpreterState *)shared_data->main.interp; }
#define PyErr_Fetch(type, value, tb) ((void)(*(type) = *(value) = *(tb) = NULL))
#define PyErr_Restore(type, value, tb) ((void)(type), (void)(value), (void)(tb))

#define NOT_REACHED(text) (fprintf(stderr, "explorer: %s was reached\n", text), exit(2))
static PyInterpreterState *pep788_main_interp(void) { return (PyInterpreterState *)shared_data->main.interp; }
static unsigned long PyThread_get_thread_ident(void) { return (unsigned long)(me - arena.thread) + 1; }
static void pep788_set_up_main(void *i) { (void)i; NOT_REACHED("set_up_main"); }
#define pep788_visit_main(interp, call, arg) ((call)(arg), 0)

/* The calls below pass by the checks. */
static int index_of(pep788_coordinator *c)
{
    int i;
    for (i = 0; i < n_coordinators && coordinators[i] != c; i++) {
    }
    return i;
}

static int in_set(pep788_coordinator *c, pep788_coordinator *first, int all)
{
    return c == first || (all && (pep788_coordinator *)c->main == first);
}

static void mark_begin(pep788_coordinator *first, int all);
static void mark_end(int *flags, pep788_coordinator *first, int all, int value);
static size_t open_guards(pep788_coordinator *c);
static size_t lit(pep788_coordinator *c);

static void checked_begin_wait(pep788_coordinator *first, int all)
{
    mark_begin(first, all);
    pep788_begin_wait(first, all);
}

static void checked_abandon(pep788_coordinator *first, int all)
{
    mark_end(arena.abandoned, first, all, 1);
    pep788_abandon(first, all);
    mark_end(arena.closed, first, all, 1);
}

static void checked_reopen(pep788_coordinator *first, int all, int revive)
{
    if (revive) {
        arena.closed_by_own_wait[index_of(first)] = 0;
        mark_end(arena.closed, first, all, 0);
    }
    mark_end(arena.reopening, first, all, 1);
    pep788_reopen(first, all, revive);
    mark_end(arena.reopening, first, all, 0);
    if (read_memory(&first->phase) != PEP788_PHASE_OPEN) {
        fail("a new round did not begin with everything open (G6)");
    }
    if (revive) {
        mark_end(arena.abandoned, first, all, 0);
    }
}

/* The wait is over. */
static void pep788_drop_all_kept(pep788_coordinator *c);
static void checked_drop_all_kept(pep788_coordinator *first)
{
    int i, all = first->is_main, keep_subs = all && pep788_subs_end_before_flag();
    for (i = 0; i < n_coordinators && !arena.abandoned[index_of(first)]; i++) {
        if ((coordinators[i] == first || !keep_subs) && in_set(coordinators[i], first, all)
            && !arena.abandoned[i] && open_guards(coordinators[i]) + lit(coordinators[i]) != 0) {
            fail("the wait ended with an open guard (G3, G10)");
        }
    }
    if (kept_of[0].first != NULL) {
        pep788_drop_all_kept(first);
    }
}

#define pep788_now explore_now
#define pep788_begin_wait checked_begin_wait
#define pep788_abandon checked_abandon
#define pep788_reopen checked_reopen
#include HEADER_FUNCTIONS
#undef free
#undef pep788_begin_wait
#undef pep788_abandon
#undef pep788_reopen
#undef malloc

/* ---- checks ---------------------------------------------------------------------------------------------------- */

static pep788_coordinator *coordinator_of(pep788_record *r)
{
    return (pep788_coordinator *)r->coordinator;
}

/* Index of a cell, or -1; in order of allocation, those of a record's pairs are neighbours. */
static pep788_cell *cells[MAX_CELLS];
static int n_cells;

static int cell_index(const word_t *at)
{
    int i;
    for (i = 0; i < n_cells; i++) {
        if (&cells[i]->word == at) {
            return i;
        }
    }
    return -1;
}

static int on_pair(pep788_record *r, pep788_cell *cell)
{
    return (cell >= r->pair[0] && cell < r->pair[0] + SHARDS) || (cell >= r->pair[1] && cell < r->pair[1] + SHARDS);
}

static size_t open_guards(pep788_coordinator *c)
{
    size_t n = 0;
    int i;
    for (i = 0; i < n_cells; i++) {
        if (coordinator_of(cells[i]->record) == c && on_pair(cells[i]->record, cells[i])) {
            n += arena.open[i];
        }
    }
    return n;
}

/* Threads that use a kept state without having taken a guard. */
static size_t lit(pep788_coordinator *c)
{
    size_t n = 0;
    int i;
    for (i = 0; i < THREADS; i++) {
        n += arena.lit[i] && c->records != NULL && kept_of[i].first->home == &c->records->home;
    }
    return n;
}

static void mark_begin(pep788_coordinator *first, int all)
{
    int i;
    for (i = 0; i < n_coordinators; i++) {
        pep788_coordinator *c = coordinators[i];
        /* A held lock: the other waiter is beginning this very wait. */
        if (in_set(c, first, all) && c->phase == PEP788_PHASE_OPEN && c->lock == 0) {
            arena.waits[i]++;
            arena.old_open[i] = (int)open_guards(c);
        }
    }
}

static void mark_end(int *flags, pep788_coordinator *first, int all, int value)
{
    int i;
    for (i = 0; i < n_coordinators; i++) {
        if (in_set(coordinators[i], first, all)) {
            flags[i] = value;
        }
    }
}

static int others_live(void)
{
    int i, n = 0;
    for (i = 0; i < THREADS; i++) {
        n += !arena.thread[i].done;
    }
    return n > 1;
}

static void check_protection(const word_t *at, word_t value)
{
    int i, self = (int)(me - arena.thread) + 1;
    for (i = 0; i < n_coordinators; i++) {
        if (at == &coordinators[i]->lock) {
            if (value != 0) {
                arena.owner[i] = self;
            }
            else {
                if (arena.owner[i] != self && others_live()) {
                    fail("a lock was given back by a thread that does not have it");
                }
                arena.owner[i] = 0;
            }
        }
        if (at == &coordinators[i]->phase && arena.owner[i] != self && others_live()) {
            fail("`phase` was written without the lock");
        }
        if (at == &coordinators[i]->main && !linking) {
            fail("`main` was written");
        }
    }
    for (i = 0; i < n_records; i++) {
        if (at == &records[i]->current && coordinator_of(records[i]) != NULL
            && arena.owner[index_of(coordinator_of(records[i]))] != self && others_live()) {
            fail("`current` was written without the lock");
        }
        if (at == &records[i]->coordinator && records[i] != late_r) {
            fail("`coordinator` was written");
        }
    }
}

static int is_lock(const word_t *at)
{
    int i;
    for (i = 0; i < n_coordinators; i++) {
        if (at == &coordinators[i]->lock) {
            return 1;
        }
    }
    for (i = 0; i < n_records; i++) {
        if (at == &records[i]->home.lock) {
            return 1;
        }
    }
    return 0;
}

static int nobody_can_write(const word_t *at)
{
    int i, self = (int)(me - arena.thread) + 1;
    for (i = 0; i < n_coordinators; i++) {
        pep788_coordinator *c = coordinators[i];
        if ((at == &c->phase && arena.owner[i] == self) || (at == &c->main && !linking) || at == &c->interp) {
            return 1;
        }
    }
    for (i = 0; i < n_records; i++) {
        pep788_record *r = records[i];
        if (r != late_r && (at == &r->coordinator || at == &r->interp
                            || (at == &r->current && arena.owner[index_of(coordinator_of(r))] == self))) {
            return 1;
        }
    }
    return 0;
}

/* `light` and the locks of homes, where no thread has a kept state; the former is used under its interpreter's lock. */
static int nobody_looks_at(const word_t *at)
{
    int i;
    for (i = 0; i < n_records && kept_of[0].first == NULL; i++) {
        if (at == &records[i]->light || at == &records[i]->home.lock) {
            return 1;
        }
    }
    return 0;
}

/* Called in the step that wrote. */
static void after_write(word_t *at, word_t before, word_t after, int is_sub)
{
    int i = cell_index(at);
    word_t old_state = before & PEP788_STATE, state = after & PEP788_STATE;
    pep788_coordinator *c;
    if (i < 0) {
        int k;
        for (k = 0; k < THREADS; k++) {
            if (kept_of[k].first != NULL && at == &kept_of[k].first->guard && after != 0) {
                arena.guard_wait[k] = arena.waits[index_of(coordinator_of(((pep788_cell *)after)->record))];
            }
        }
        check_protection(at, after);
        return;
    }
    c = coordinator_of(cells[i]->record);
    if (after == before + PEP788_UNIT && !me->entering) {
        arena.open[i]++;        /* by pep788_dim */
        return;
    }
    if (is_sub) {
        if (arena.open[i] == 0) {
            fail("more guards closed than were open");
        }
        arena.open[i]--;
        if (me->leaving_kept) {
            me->leaving_wait = arena.guard_wait[me - arena.thread];
        }
        if (c != NULL && me->leaving_wait < arena.waits[index_of(c)]) {
            arena.old_open[index_of(c)]--;
        }
        return;
    }
    if (state == old_state || c == NULL) {
        return;
    }
    if (state == PEP788_CLOSED && waited_by[me - arena.thread] == NULL) {
        arena.abandoned[index_of(c)] = 1;   /* by pep788_link_to_main: main is past its wait, nobody can wait */
    }
    if (state == PEP788_INSIDERS) {
        int k;
        for (k = 0; k < n_coordinators; k++) {
            if (in_set(coordinators[k], c, 1) && arena.old_open[k] > 0
                && coordinators[k]->phase != PEP788_PHASE_CLOSED && coordinators[k]->phase != PEP788_PHASE_OPEN) {
                fail("threads are refused while a guard older than the wait is open (F9)");
            }
        }
    }
    if (state == PEP788_CLOSED && c->is_main) {
        int k;
        for (k = 0; k < n_coordinators; k++) {
            if (in_set(coordinators[k], c, 1) && !arena.abandoned[k] && open_guards(coordinators[k]) + lit(coordinators[k]) != 0) {
                fail("main closed while a guard of an interpreter it waits for is open (G3, G10)");
            }
        }
    }
}

/* While nobody has its lock, an interpreter's cells are what its phase says (the picture in section 4), and so is
   `light`. */
static void check_phases(void)
{
    int i, k;
    if (!others_live()) {
        return;         /* the child of a fork is on its way */
    }
    for (k = 0; k < n_coordinators; k++) {
        pep788_coordinator *c = coordinators[k];
        pep788_record *r;
        word_t want = c->phase == PEP788_PHASE_CLOSED ? PEP788_CLOSED
                      : c->phase == PEP788_PHASE_INSIDERS ? PEP788_INSIDERS : PEP788_OPEN;
        if (c->lock != 0) {
            continue;
        }
        for (r = c->records; r != NULL; r = r->next) {
            if (r->light != (c->phase == PEP788_PHASE_OPEN)) {
                fail("kept states are used %s a guard in phase %d", r->light ? "without" : "with", (int)c->phase);
            }
            for (i = 0; i < 2 * SHARDS; i++) {
                pep788_cell *row = r->pair[i / SHARDS];
                word_t state = row[i % SHARDS].word & PEP788_STATE;
                if (state != (row == (pep788_cell *)r->current || want == PEP788_CLOSED ? want : PEP788_RETIRED)) {
                    fail("a cell is in state %d in phase %d of its interpreter", (int)state, (int)c->phase);
                }
            }
        }
    }
}

/* In every state. */
static void check_state(void)
{
    int i, k;
    for (i = 0; i < n_cells; i++) {
        word_t word = cells[i]->word;
        pep788_record *r = cells[i]->record;
        pep788_coordinator *c = coordinator_of(r);
        if (word / PEP788_UNIT != arena.open[i]) {
            fail("a cell counts %zu guards, %zu are open", (size_t)(word / PEP788_UNIT), (size_t)arena.open[i]);
        }
        if ((word & PEP788_STATE) == PEP788_BUSY && word >= PEP788_UNIT) {
            fail("a cell is BUSY with open guards");
        }
        if ((word & PEP788_STATE) == PEP788_CLOSED && c != NULL && r->status != PEP788_NEVER
            && on_pair(r, cells[i])) {
            k = index_of(c);
            if (!arena.abandoned[k] && !arena.reopening[k] && r->status != PEP788_ENDED && open_guards(c) + lit(c) != 0) {
                fail("closed while a guard is open (G3, G6)");
            }
        }
    }
    check_phases();
    for (k = 0; k < THREADS; k++) {
        thread_t *t = &arena.thread[k];
        if (t->entering != NULL) {
            pep788_record *r = t->entering;
            pep788_cell *current = (pep788_cell *)r->current;
            size_t at = shard_of(k);
            if (current == NULL || (r->pair[0][at].word & PEP788_STATE) == PEP788_CLOSED
                || (r->pair[1][at].word & PEP788_STATE) == PEP788_CLOSED) {
                t->saw_closed = t->saw_refusal = 1;
            }
            else if ((current[at].word & PEP788_STATE) == PEP788_INSIDERS) {
                t->saw_refusal = 1;
            }
        }
    }
}

/* By whoever finalizes. */
static void PyThreadState_Clear(PyThreadState *tstate)
{
    int i;
    for (i = 0; i < THREADS; i++) {
        if (arena.lit[i] && kept_of[i].first->tstate == tstate) {
            fail("a thread state is deleted that its thread uses (F6)");
        }
    }
}

typedef struct { pep788_cell *cell; int wait; } guard_t;

/* As in pep788_attach_light. */
static int light_on(pep788_record *r)
{
    int on, self = (int)(me - arena.thread);
    pep788_coordinator *c = coordinator_of(r);
    pep788_kept *k = kept_of[self].first;
    (void)scrub();
    me->closed_at_call = arena.closed[index_of(c)] || arena.closed_by_own_wait[index_of(c)];
    me->leaving_kept = 1;
    on = pep788_light_on(r, k);
    me->leaving_kept = me->leaving_wait = 0;
    if (on) {
        arena.lit[self] = 1;
        if (me->closed_at_call && (arena.closed[index_of(c)] || arena.closed_by_own_wait[index_of(c)])) {
            fail("a kept state was handed out after the close (F6, G7)");
        }
        if (k->state != PEP788_KEPT_IDLE) {
            fail("a kept state was handed out that is deleted (F6)");
        }
    }
    me->closed_at_call = 0;
    (void)scrub();
    return on;
}

static void light_off(pep788_record *r)
{
    int self = (int)(me - arena.thread);
    (void)scrub();
    me->leaving_kept = 1;
    arena.lit[self] = 0;
    pep788_light_off(r, kept_of[self].first);
    me->leaving_kept = me->leaving_wait = 0;
    (void)scrub();
}

static guard_t enter(pep788_record *r)
{
    guard_t guard = {NULL, 0};
    int inside = me->depth != 0 || me->other_depth != 0;
    pep788_coordinator *c = coordinator_of(r);
    (void)scrub();
    me->closed_at_call = c != NULL && (arena.closed[index_of(c)] || arena.closed_by_own_wait[index_of(c)]);
    me->saw_refusal = me->saw_closed = 0;
    me->entering = r;
    check_state();
    guard.cell = pep788_enter(r);
    c = coordinator_of(r);
    if (guard.cell != NULL) {
        word_t state = guard.cell->word & PEP788_STATE;
        arena.open[cell_index(&guard.cell->word)]++;
        guard.wait = arena.waits[index_of(c)];
        if (me->closed_at_call && (arena.closed[index_of(c)] || arena.closed_by_own_wait[index_of(c)])) {
            fail("a guard was handed out after the close (G7)");
        }
        if (state != PEP788_OPEN && !(state == PEP788_INSIDERS && inside)) {
            fail("a guard was handed out in a state that refuses (F9)");
        }
        note("-> guard", &guard.cell->word, 0, guard.cell->word, "");
    }
    else {
        if (!(inside ? me->saw_closed : me->saw_refusal)) {
            fail("a guard was refused although %s", inside ? "this thread is inside (F9)"
                                                           : "acquiring must work now (G6)");
        }
        note("-> refused", NULL, 0, 0, "");
    }
    me->entering = NULL;
    me->closed_at_call = me->saw_refusal = me->saw_closed = 0;
    (void)scrub();
    return guard;
}

static void leave(guard_t guard)
{
    (void)scrub();
    me->leaving_wait = guard.wait;
    pep788_leave(guard.cell);
    me->leaving_wait = 0;
    (void)scrub();
}

static void finalize(pep788_coordinator *first)
{
    int all = first->is_main, keep_subs = all && pep788_subs_end_before_flag();
    waited_by[me - arena.thread] = first;
    pep788_seam(first);
    (void)scrub();
    mark_end(arena.closed, first, all && !keep_subs, 1);
    arena.closed_by_own_wait[index_of(first)] = 1;
}

/* ---- scenarios ------------------------------------------------------------------------------------------------- */

static pep788_coordinator *main_c, *sub_c;
static pep788_record *main_r, *copy_r, *sub_r;

static pep788_coordinator *new_coordinator(int is_main)
{
    pep788_coordinator *c = allocate(sizeof(*c));
    coordinators[n_coordinators++] = c;
    c->abi = PEP788_ABI;
    c->is_main = is_main;
    c->id = n_coordinators - 1;
    c->phase = PEP788_PHASE_OPEN;
    c->interp = (word_t)c;
    c->give_up_after = -1.0;
    c->report_after = 1e9;
    return c;
}

/* Ensures by another copy of the header. */
static unsigned other_depth(pep788_record *r) { (void)r; return (unsigned)me->other_depth; }
static void nothing_here(void) { }
static const pep788_ops other_copy = {PEP788_ABI, other_depth, NULL, NULL, nothing_here, pep788_drop_kept, NULL};

static int forking;                  /* of the scenario: cells for the child are there */

static void know_cells(pep788_cell **pair)
{
    int i;
    for (i = 0; i < 2 * SHARDS; i++) {
        pep788_cell *cell = pair[i / SHARDS] + i % SHARDS;
        if (cell_index(&cell->word) < 0) {
            cells[n_cells++] = cell;
        }
    }
}

static pep788_record *new_record(void *where)
{
    pep788_record *r = where != NULL ? where : allocate(sizeof(*r));
    records[n_records++] = r;
    r->ops = &other_copy;
    r->name = "copy";
    r->shards = SHARDS;
    if (!pep788_new_pair(r->pair, r) || (forking && !pep788_new_pair(r->spare, r))) {
        exit(2);
    }
    know_cells(r->pair);
    if (forking) {
        know_cells(r->spare);
    }
    return r;
}

/* As pep788_join_locked leaves it, without threads. */
static void join_now(pep788_coordinator *c, pep788_record *r)
{
    int i;
    r->next = c->records;
    c->records = r;
    r->coordinator = (word_t)c;
    for (i = 0; i < SHARDS; i++) {
        r->pair[0][i].word = PEP788_OPEN;
        r->pair[1][i].word = PEP788_RETIRED;
    }
    r->current = (word_t)r->pair[0];
    r->interp = c->interp;
    r->status = PEP788_LIVE;
    r->light = 1;
}

static guard_t take_now(pep788_record *r)
{
    guard_t guard = {(pep788_cell *)r->current + SHARDS - 1, 0};
    guard.cell->word += PEP788_UNIT;
    arena.open[cell_index(&guard.cell->word)]++;
    return guard;
}

static void with_main(void)
{
    shared_data = allocate(sizeof(*shared_data));
    main_c = new_coordinator(1);
    main_c->main = (word_t)main_c;
    main_r = new_record(&shared_data->main);
    join_now(main_c, main_r);
}

static void with_sub(void)
{
    with_main();
    sub_c = new_coordinator(0);
    sub_r = new_record(NULL);
    join_now(sub_c, sub_r);
    shared_data->subs = (word_t)sub_r;
}

static void link_now(void)
{
    sub_c->main = (word_t)main_c;
    main_c->subs = sub_c;
}

static void with_linked_sub(void)
{
    with_sub();
    link_now();
}

static void with_copy(void)
{
    with_main();
    copy_r = new_record(NULL);
    join_now(main_c, copy_r);
}

static void with_late_copy(void)
{
    with_main();
    late_r = new_record(NULL);
}

/* Threads. */
static guard_t old_guard;       /* taken by the setup; constant while threads run */

static void finalizer(void) { finalize(main_c); }
static void finalizer_of_sub(void) { finalize(sub_c); }

static void take_and_close(pep788_record *r, int times)
{
    while (times-- > 0) {
        guard_t guard = enter(r);
        if (guard.cell != NULL) {
            leave(guard);
        }
    }
}

static void user(void) { take_and_close(main_r, 2); }
static void user_once(void) { take_and_close(main_r, 1); }
static void user_of_copy(void) { take_and_close(copy_r, 2); }
static void user_of_sub(void) { take_and_close(sub_r, 2); }
static void user_of_sub_once(void) { take_and_close(sub_r, 1); }

static void user_overlapping(void)
{
    guard_t a = enter(main_r), b = enter(main_r);
    if (a.cell != NULL) {
        leave(a);
    }
    if (b.cell != NULL) {
        leave(b);
    }
}

static void user_of_both_copies(void)
{
    guard_t a = enter(main_r), b = enter(copy_r);
    if (a.cell != NULL) {
        leave(a);
    }
    if (b.cell != NULL) {
        leave(b);
    }
}

/* Holds a guard of before the wait: while it does, acquiring must work. */
static void hold(pep788_record *r, void (*give_back)(pep788_record *))
{
    guard_t another = enter(r);
    if (another.cell == NULL && !arena.abandoned[index_of(coordinator_of(r))]) {
        fail("a thread was refused that holds an old guard, or uses its kept state since before the wait");
    }
    give_back(r);
    if (another.cell != NULL) {
        leave(another);
    }
}

static void close_old_guard(pep788_record *unused) { (void)unused; leave(old_guard); }
static void holder(void) { hold(main_r, close_old_guard); }
static void holder_of_sub(void) { hold(sub_r, close_old_guard); }
static void holder_closes(void) { leave(old_guard); }

/* Inside an Ensure: takes what it needs to finish. */
static void take_inside(void)
{
    guard_t inner;
    me->depth++;
    inner = enter(main_r);
    if (inner.cell == NULL) {
        fail("a thread inside an Ensure was refused");
    }
    leave(inner);
    me->depth--;
}

static void insider(void)
{
    guard_t outer = enter(main_r);
    if (outer.cell != NULL) {
        take_inside();
        leave(outer);
    }
}

static void insider_of_copy(void)
{
    guard_t outer = enter(main_r), inner;
    if (outer.cell == NULL) {
        return;
    }
    me->other_depth++;
    inner = enter(copy_r);
    if (inner.cell == NULL) {
        fail("a thread inside an Ensure was refused");
    }
    me->other_depth--;
    leave(outer);
    leave(inner);
}

/* Never stop by themselves (F9). */
static void starver(void)
{
    guard_t guard;
    while ((guard = enter(main_r)).cell != NULL) {
        leave(guard);
    }
}

static void overlapping_starver(void)
{
    guard_t guard = enter(main_r);
    while (guard.cell != NULL) {
        guard_t next = enter(main_r);
        leave(guard);
        guard = next;
    }
}

static void overlapping_starver_of_sub(void)
{
    guard_t guard = enter(sub_r);
    while (guard.cell != NULL) {
        guard_t next = enter(sub_r);
        leave(guard);
        guard = next;
    }
}

static void joiner(void)
{
    pep788_lock(&main_c->lock);
    pep788_join_locked(main_c, late_r);
    pep788_unlock(&main_c->lock);
    take_and_close(late_r, 1);
}

static void reviver(void)
{
    finalize(main_c);
    (void)pep788_revive(main_c);
    finalize(main_c);
}

static void linker(void)
{
    guard_t guard = enter(sub_r);
    pep788_link_to_main(sub_c);
    take_and_close(sub_r, 1);
    if (guard.cell != NULL) {
        leave(guard);
    }
}

static void finalizer_and_unlinker(void)
{
    finalize(sub_c);
    pep788_unlink(sub_c);
}

static void abandoner_and_unlinker(void)
{
    checked_abandon(sub_c, 0);
    pep788_unlink(sub_c);
}

/* Waits for a guard in the mailbox and closes it; -1: there is none. */
static void receiver(void)
{
    guard_t guard = {NULL, 0};
    for (;;) {
        await(&arena.shared[0], 1);
        if (arena.shared[1] == 0) {
            return;
        }
        guard.cell = (pep788_cell *)arena.shared[1];
        guard.wait = (int)arena.shared[2];
        arena.shared[0] = arena.shared[1] = arena.shared[2] = 0;
        leave(guard);
    }
}

static void finalizer_that_sends(void)
{
    finalize(main_c);
    await(&arena.shared[0], 0);
    arena.shared[0] = 1;
}

/* A call queued by a guarded thread (Py_MakePendingCalls) takes a guard and hands it over. */
static int Py_MakePendingCalls(void)
{
    if (arena.shared[7] != 0) {
        guard_t guard;
        arena.shared[7]--;
        guard = enter(main_r);
        if (guard.cell == NULL) {
            fail("a queued call was refused");
        }
        arena.shared[1] = (word_t)guard.cell;
        arena.shared[2] = (word_t)guard.wait;
        arena.shared[0] = 1;
    }
    return 0;
}

/* In the child only the caller goes on; what the parent's threads were doing stays half done. */
static void become_child(void)
{
    int i;
    for (i = 0; i < THREADS; i++) {
        if (&arena.thread[i] != me) {
            arena.thread[i].done = 1;
            arena.thread[i].entering = NULL;
            arena.thread[i].stores = 0;
        }
        arena.lit[i] = 0;       /* the parent's (F1) */
    }
    pep788_in_child();
    for (i = 0; i < n_coordinators; i++) {
        word_t phase = read_memory(&coordinators[i]->phase);
        if (phase != PEP788_PHASE_OPEN && phase != PEP788_PHASE_CLOSED) {
            fail("the child begins in the middle of the parent's wait (F1)");
        }
    }
}

static void child_finalizes(int is_sub)
{
    guard_t guard = enter(is_sub ? sub_r : main_r);
    pep788_coordinator *c = is_sub ? sub_c : main_c;
    if (guard.cell == NULL && !arena.closed[index_of(c)] && c->phase != PEP788_PHASE_CLOSED) {
        fail("the child was refused a guard (F1)");
    }
    if (old_guard.cell != NULL) {
        leave(old_guard);       /* harmless */
    }
    if (guard.cell != NULL) {
        leave(guard);
    }
    memset(arena.old_open, 0, sizeof(arena.old_open));
    finalize(c);
}

static void forker(void)
{
    pep788_before_fork();
    if (explore_choose(2, "fork: go on in the child?")) {
        become_child();
        child_finalizes(0);
        return;
    }
    leave(old_guard);
}

/* Python code run by the finalizing thread forks (a signal handler). */
static int PyErr_CheckSignals(void)
{
    if (arena.shared[6] != 0) {
        arena.shared[6]--;
        pep788_before_fork();
        if (explore_choose(2, "fork: go on in the child?")) {
            become_child();
        }
    }
    return 0;
}

/* Kept states: an idle one for each thread. */
static void keep(pep788_record *r, word_t fence, int linked)
{
    int i;
    for (i = 0; i < THREADS; i++) {
        pep788_kept *k = allocate(sizeof(*k));
        kept_of[i].first = k;
        k->tstate = (PyThreadState *)(void *)k;
        k->home = &r->home;
        k->fence = fence;
        k->state = linked ? PEP788_KEPT_IDLE : PEP788_KEPT_BUSY;
        if (linked && i > 0) {
            k->after = r->home.first;
            k->link = &r->home.first;
            if (k->after != NULL) {
                k->after->link = &k->after;
            }
            r->home.first = k;
        }
    }
}

static void take_light_now(int thread)
{
    kept_of[thread].first->light = 1;
    arena.lit[thread] = 1;
}

/* Others may run meanwhile. */
static void use_it(void)
{
    pause_for(STEP, "use", NULL, 0);
    note("use", NULL, 0, 0, "");
}

static void use_kept(pep788_record *r, int times)
{
    while (times-- > 0) {
        if (light_on(r)) {
            use_it();
            light_off(r);
        }
        else {
            take_and_close(r, 1);
        }
    }
}

static void kept_user(void) { use_kept(main_r, 2); }
static void kept_user_once(void) { use_kept(main_r, 1); }
static void kept_holder_ends(void) { light_off(sub_r); }

/* Is light since before the wait: while it is, acquiring must work. */
static void kept_holder(void)
{
    hold(main_r, light_off);
    use_kept(main_r, 1);
}

static void kept_holder_of_sub(void) { hold(sub_r, light_off); }

static void kept_insider(void)
{
    if (light_on(main_r)) {
        take_inside();
        light_off(main_r);
    }
}

static void kept_starver(void)
{
    for (;;) {
        if (light_on(main_r)) {
            use_it();
            light_off(main_r);
        }
        else {
            guard_t guard = enter(main_r);
            if (guard.cell == NULL) {
                return;
            }
            leave(guard);
        }
    }
}

/* As pep788_attach_and_keep: the first call of a thread has a guard. */
static void kept_newcomer(void)
{
    pep788_kept *k = kept_of[me - arena.thread].first;
    guard_t guard = enter(main_r);
    if (guard.cell == NULL) {
        return;
    }
    pep788_link_kept(k);
    pep788_store_release(&k->state, PEP788_KEPT_IDLE);
    leave(guard);
    use_kept(main_r, 1);
}

static void kept_linker(void)
{
    int on = light_on(sub_r);
    pep788_link_to_main(sub_c);
    if (on) {
        light_off(sub_r);
    }
    use_kept(sub_r, 1);
}

static void kept_forker(void)
{
    pep788_before_fork();
    if (explore_choose(2, "fork: go on in the child?")) {
        become_child();
        child_finalizes(0);
        return;
    }
    light_off(main_r);
}

/* Setups. */
static void hold_main(void) { with_main(); old_guard = take_now(main_r); }
static void hold_late(void) { with_late_copy(); old_guard = take_now(main_r); }
static void hold_copy(void) { with_copy(); old_guard = take_now(copy_r); }
static void hold_sub(void) { with_linked_sub(); old_guard = take_now(sub_r); }
static void hold_main_of_two(void) { with_linked_sub(); old_guard = take_now(main_r); }
static void hold_sub_kept(void) { hold_sub(); subs_end_before_flag = 1; }
static void kept(void) { with_linked_sub(); subs_end_before_flag = 1; }
static void round_again(void) { hold_main(); arena.thread[0].rounds = 1; }
static void round_of_none(void) { with_main(); arena.thread[0].rounds = 1; }
static void round_of_two(void) { with_linked_sub(); arena.thread[0].rounds = 1; }
static void round_again_of_all(void) { hold_sub(); arena.thread[0].rounds = 1; }
static void time_out(void) { hold_main(); arena.thread[0].timeouts = 2; }
static void give_up(void) { hold_main(); main_c->give_up_after = 50.0; arena.thread[0].limit = 1; }
static void give_up_of_all(void) { hold_sub(); main_c->give_up_after = 50.0; arena.thread[0].limit = 1; }
static void queued_call(void) { hold_main(); arena.shared[7] = 1; }
static void fork_soon(void) { forking = 1; hold_main(); }
static void signal_forks(void) { fork_soon(); arena.shared[6] = 1; }
static void link_soon(void) { with_sub(); linking = 1; old_guard = take_now(main_r); }

static void with_kept(void) { with_main(); keep(main_r, PEP788_MEMBARRIER, 1); }
static void with_kept_fenced(void) { with_main(); keep(main_r, PEP788_FENCED, 1); }
static void with_kept_later(void) { with_main(); keep(main_r, PEP788_MEMBARRIER, 0); }
static void hold_kept(void) { with_kept(); take_light_now(1); }
static void hold_kept_fenced(void) { with_kept_fenced(); take_light_now(1); }
static void hold_kept_of_sub(void) { with_linked_sub(); keep(sub_r, PEP788_MEMBARRIER, 1); take_light_now(2); }
static void kept_round(void) { hold_kept(); arena.thread[0].rounds = 1; }
static void kept_round_of_none(void) { with_kept(); arena.thread[0].rounds = 1; }
static void kept_perhaps(void) { with_kept(); end_of_main = PEP788_PERHAPS; }
static void kept_give_up(void) { hold_kept(); main_c->give_up_after = 50.0; arena.thread[0].limit = 1; }
static void kept_fork(void) { forking = 1; hold_kept(); }
static void kept_link(void) { link_soon(); keep(sub_r, PEP788_MEMBARRIER, 1); }

static void perhaps(void) { with_main(); end_of_main = PEP788_PERHAPS; }
static void perhaps_with_sub(void) { with_linked_sub(); end_of_main = PEP788_PERHAPS; }

typedef struct {
    const char *name, *about;
    void (*setup)(void);
    void (*thread[THREADS])(void);
    int waiters;                /* bit set of threads that finalize */
} scenario;

static const scenario scenarios[] = {
    {"close", "the wait against two threads that acquire and close",
     with_main, {finalizer, user, user}, 1},
    {"old-guard", "a thread holds a guard of before the wait and takes another",
     hold_main, {finalizer, holder, user_once}, 1},
    {"overlap", "guards overlap, so the count does not come to 0 in between",
     hold_main, {finalizer, holder, user_overlapping}, 1},
    {"insiders", "a thread inside an Ensure takes one more in the second phase",
     hold_main, {finalizer, insider, holder_closes}, 1},
    {"two-insiders", "two of them",
     with_main, {finalizer, insider, insider}, 1},
    {"starve", "a thread acquires and closes for ever",
     hold_main, {finalizer, starver, holder}, 1},
    {"starve-overlap", "two threads, each never without a guard by its own will",
     with_main, {finalizer, overlapping_starver, overlapping_starver}, 1},
    {"starve-round", "the same, and the round is repeated",
     round_again, {finalizer, overlapping_starver, holder_closes}, 1},
    {"copies", "two copies of the header on one interpreter",
     with_copy, {finalizer, user, user_of_copy}, 1},
    {"copies-both", "a thread takes a guard through each copy",
     hold_copy, {finalizer, user_of_both_copies, holder_closes}, 1},
    {"copies-insider", "inside an Ensure of one copy, takes through the other",
     hold_copy, {finalizer, insider_of_copy, holder_closes}, 1},
    {"round", "G6: work appeared, the whole round again; stale `current` pointers",
     round_again, {finalizer, user, holder}, 1},
    {"round-stale", "G6 with two users, whose pointers survive two swaps",
     round_of_none, {finalizer, user, user_overlapping}, 1},
    {"queued-call", "a queued call takes a guard in the second phase and hands it over",
     queued_call, {finalizer_that_sends, receiver, holder_closes}, 1},
    {"timeout", "the sleep times out while a post is under way",
     time_out, {finalizer, holder, user_once}, 1},
    {"revive", "closed, back to life, closed again",
     perhaps, {reviver, user, user}, 1},
    {"join", "a copy joins during the wait",
     hold_late, {finalizer, joiner, holder_closes}, 1},
    {"abandon", "the user's limit ends the wait",
     give_up, {finalizer, holder, user_once}, 1},
    {"sub", "main waits for the guards of a subinterpreter",
     hold_sub, {finalizer, holder_of_sub, user_of_sub_once}, 1},
    {"sub-kept", "3.14: the subinterpreter must be quiet but stays open",
     hold_sub_kept, {finalizer, holder_of_sub, user_of_sub_once}, 1},
    {"main-and-sub", "main and a subinterpreter finalize at the same time",
     hold_sub, {finalizer, finalizer_of_sub, holder_of_sub}, 3},
    {"main-and-sub-main-guard", "the same, with a guard of main",
     hold_main_of_two, {finalizer, finalizer_of_sub, holder}, 3},
    {"main-and-sub-users", "the same, with a user who comes late",
     with_linked_sub, {finalizer, finalizer_of_sub, user_of_sub}, 3},
    {"main-and-sub-kept", "3.14: the same, main leaves the subinterpreter open",
     hold_sub_kept, {finalizer, finalizer_of_sub, holder_of_sub}, 3},
    {"main-and-sub-kept-users", "3.14: the same, with a user who comes late",
     kept, {finalizer, finalizer_of_sub, user_of_sub}, 3},
    {"main-and-sub-round", "the same, main repeats its round",
     round_again_of_all, {finalizer, finalizer_of_sub, holder_of_sub}, 3},
    {"main-and-sub-round-users", "the same, with a user who comes late",
     round_of_two, {finalizer, finalizer_of_sub, user_of_sub_once}, 3},
    {"main-and-sub-starve", "the same, against a thread that never stops",
     with_linked_sub, {finalizer, finalizer_of_sub, overlapping_starver_of_sub}, 3},
    {"main-and-sub-starve-round", "the same, main repeats its round",
     round_of_two, {finalizer, finalizer_of_sub, overlapping_starver_of_sub}, 3},
    {"main-abandons-sub", "main gives up while the subinterpreter waits",
     give_up_of_all, {finalizer, finalizer_of_sub, holder_of_sub}, 3},
    {"main-revives-sub", "main comes back to life; a subinterpreter that ended stays closed",
     perhaps_with_sub, {reviver, finalizer_of_sub, user_of_sub}, 3},
    {"unlink", "the subinterpreter ends and goes away during main's wait",
     hold_sub, {finalizer, finalizer_and_unlinker, holder_closes}, 3},
    {"unlink-leaked", "it gives up and goes away, and leaks a guard",
     hold_sub, {finalizer, abandoner_and_unlinker, user_of_sub_once}, 3},
    {"link", "a subinterpreter is linked during main's wait",
     link_soon, {finalizer, linker, holder_closes}, 1},
    {"fork", "a thread forks at any moment of the wait; the child finalizes",
     fork_soon, {finalizer, forker, user_once}, 1},
    {"fork-by-handler", "the finalizing thread forks",
     signal_forks, {finalizer, holder, user_once}, 1},
    {"kept", "kept states, used without a guard until the wait begins",
     with_kept, {finalizer, kept_user, NULL}, 1},
    {"kept-two", "of two threads",
     with_kept, {finalizer, kept_user_once, kept_user_once}, 1},
    {"kept-and-guards", "beside a thread that takes guards",
     with_kept, {finalizer, kept_user_once, user_once}, 1},
    {"kept-fenced", "without membarrier: each thread has its own fence",
     with_kept_fenced, {finalizer, kept_user, NULL}, 1},
    {"kept-holder", "one is in use since before the wait, its thread takes a guard",
     hold_kept, {finalizer, kept_holder, user_once}, 1},
    {"kept-holder-fenced", "the same without membarrier",
     hold_kept_fenced, {finalizer, kept_holder, NULL}, 1},
    {"kept-insider", "inside an Ensure, takes a guard in the second phase",
     with_kept, {finalizer, kept_insider, user_once}, 1},
    {"kept-starve", "a thread uses its own for ever",
     with_kept, {finalizer, kept_starver, user_once}, 1},
    {"kept-later", "a thread keeps its first state during the wait",
     with_kept_later, {finalizer, kept_newcomer, user_once}, 1},
    {"kept-round", "G6: the whole round again, with a guard of the first one",
     kept_round, {finalizer, kept_holder, NULL}, 1},
    {"kept-round-stale", "G6 with a user before and after",
     kept_round_of_none, {finalizer, kept_user, NULL}, 1},
    {"kept-revive", "closed, the state deleted, back to life, closed again",
     kept_perhaps, {reviver, kept_user, NULL}, 1},
    {"kept-abandon", "the user's limit ends the wait",
     kept_give_up, {finalizer, kept_holder, NULL}, 1},
    {"kept-sub", "main waits for a subinterpreter's",
     hold_kept_of_sub, {finalizer, NULL, kept_holder_of_sub}, 1},
    {"kept-main-and-sub", "main and the subinterpreter finalize at the same time",
     hold_kept_of_sub, {finalizer, finalizer_of_sub, kept_holder_ends}, 3},
    {"kept-link", "a subinterpreter is linked during main's wait",
     kept_link, {finalizer, kept_linker, holder_closes}, 1},
    {"kept-fork", "a thread forks inside; the child finalizes",
     kept_fork, {finalizer, kept_forker, NULL}, 1},
};

/* ---- search ---------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t key[2];
    double paths;               /* executions from here; < 0: not known yet */
    uint32_t index, low;        /* Tarjan; index 0: free slot */
    uint8_t stepped, moved;     /* threads, on edges inside the component */
    uint8_t can_go;             /* threads */
    uint8_t on_stack;
} entry;

typedef struct {
    int thread, way;            /* way < 0: the oldest buffered store becomes visible */
} choice;

typedef struct {
    char *copy;
    size_t size, capacity;
    size_t slot;
    int n_choices, next;
    choice choices[THREADS * 3];
    int advanced;               /* the choice explored now did more than look */
} node;

static entry *table;
static size_t table_size, states, transitions, terminals, deepest;
static uint32_t counter;
static size_t *scc_stack, scc_used, scc_capacity;
static node *path;
static size_t path_used, path_capacity;
static char said[160];
static int quiet;
static const scenario *running;
static size_t max_states = 60u * 1000 * 1000;
static int cyclic;

static const char *name_of(const word_t *at, char *text, size_t size)
{
    const char *a = (const char *)at;
    int i;
    static const char *const fields[] = {"current", "coordinator", "interp", "status"};
    for (i = 0; i < n_cells; i++) {
        if (at == &cells[i]->word) {
            pep788_record *r = cells[i]->record;
            int k = 0;
            while (k < n_records && records[k] != r) {
                k++;
            }
            snprintf(text, size, "copy%d.cell%c%d", k, 'A' + (cells[i] >= r->pair[1]), (int)((cells[i] - r->pair[0]) % SHARDS));
            return text;
        }
    }
    for (i = 0; i < n_records; i++) {
        const word_t *words[] = {&records[i]->current, &records[i]->coordinator, &records[i]->interp,
                                 &records[i]->status};
        for (size_t k = 0; k < 4; k++) {
            if (at == words[k]) {
                snprintf(text, size, "copy%d.%s", i, fields[k]);
                return text;
            }
        }
    }
    for (i = 0; i < n_coordinators; i++) {
        static const char *const names[] = {"lock", "main", "phase", "seam", "waiting", "revive"};
        pep788_coordinator *c = coordinators[i];
        const word_t *words[] = {&c->lock, &c->main, &c->phase, &c->seam, &c->waiting, &c->revive};
        for (size_t k = 0; k < 6; k++) {
            if (at == words[k]) {
                snprintf(text, size, "%s.%s", c->is_main ? "main" : "sub", names[k]);
                return text;
            }
        }
        if (at != NULL && at == (word_t *)c->wake) {
            snprintf(text, size, "%s.wake", c->is_main ? "main" : "sub");
            return text;
        }
    }
    snprintf(text, size, "arena+%td", a - (const char *)&arena);
    return text;
}

static const char *value_of(const word_t *at, word_t value, char *text, size_t size)
{
    static const char *const state_names[] = {"CLOSED", "OPEN", "RETIRED", "INSIDERS", "BUSY", "?", "?", "?"};
    static const char *const phases[] = {"OPEN", "DRAIN", "INSIDERS", "CLOSED"};
    int i;
    for (i = 0; i < n_coordinators; i++) {
        if (at == &coordinators[i]->phase && value < 4) {
            return phases[value];
        }
    }
    if (cell_index(at) >= 0) {
        snprintf(text, size, "%zu*%s", (size_t)(value / PEP788_UNIT), state_names[value & PEP788_STATE]);
        return text;
    }
    if (value >= (word_t)&arena && value < (word_t)(&arena + 1)) {
        for (i = 0; i < n_coordinators; i++) {
            if (value == (word_t)coordinators[i]) {
                return coordinators[i]->is_main ? "main" : "sub";
            }
        }
        return name_of((const word_t *)value, text, size);
    }
    snprintf(text, size, "%zd", (ptrdiff_t)value);
    return text;
}

static void note(const char *what, const word_t *at, word_t value, word_t result, const char *more)
{
    char a[64], b[64], c[64];
    size_t n;
    if (quiet) {
        return;
    }
    n = strlen(said);
    if (at == NULL) {
        snprintf(said + n, sizeof(said) - n, "%s%s%s %zd", n ? "; " : "", what, more, (ptrdiff_t)result);
    }
    else if (value == result || value == 0) {
        snprintf(said + n, sizeof(said) - n, "%s%s %s%s %s", n ? "; " : "", what, name_of(at, a, sizeof(a)), more,
                 value_of(at, result, b, sizeof(b)));
    }
    else {
        snprintf(said + n, sizeof(said) - n, "%s%s %s %s%s %s", n ? "; " : "", what, name_of(at, a, sizeof(a)),
                 value_of(at, value, c, sizeof(c)), more, value_of(at, result, b, sizeof(b)));
    }
}

static int replaying;
static jmp_buf failed;

/* Ends the search; called on any stack. */
static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!replaying) {
        printf("VIOLATION\t%s\t", running->name);
        vprintf(format, args);
        printf("\n");
    }
    else if (said[0] != '\0') {
        printf("       ... %s\n", said);
    }
    va_end(args);
    fflush(stdout);
    _longjmp(failed, 1);
}

static int enabled(thread_t *t, choice *out)
{
    int n = 0, me_index = (int)(t - arena.thread), i;
    if (t->stores > 0) {
        out[n].thread = me_index;
        out[n++].way = -1;
    }
    if (t->done) {
        return n;
    }
    switch (t->pending) {
    case STEP:
        out[n].thread = me_index;
        out[n++].way = 0;
        break;
    case DRAINED:
        if (t->stores == 0) {
            out[n].thread = me_index;
            out[n++].way = 0;
        }
        break;
    case LOCK:
        if (t->stores == 0 && *t->at == 0) {
            out[n].thread = me_index;
            out[n++].way = 0;
        }
        break;
    case SPIN:
        if (*t->at != t->value) {
            out[n].thread = me_index;
            out[n++].way = 0;
        }
        break;
    case AWAIT:
        if (*t->at == t->value && t->stores == 0) {
            out[n].thread = me_index;
            out[n++].way = 0;
        }
        break;
    case TAKE:
    case TAKE_TIMED:
        if (t->stores == 0 && *t->at != 0) {
            out[n].thread = me_index;
            out[n++].way = 0;
        }
        if (t->pending == TAKE_TIMED && t->timeouts > 0 && t->stores == 0) {
            out[n].thread = me_index;
            out[n++].way = 1;
        }
        break;
    case CHOOSE:
        for (i = 0; i < t->ways; i++) {
            out[n].thread = me_index;
            out[n++].way = i;
        }
        break;
    }
    return n;
}

static void resume(thread_t *t)
{
    me = t;
    if (_setjmp(scheduler) == 0) {
        _longjmp(arena.context[t - arena.thread], 1);
    }
}

static void step(choice what)
{
    thread_t *t = &arena.thread[what.thread];
    said[0] = '\0';
    advanced = 0;
    if (what.way < 0) {
        char a[64], b[64];
        const word_t *at = t->buffer[0].at;
        me = t;
        flush_one(t);
        if (!quiet) {
            snprintf(said, sizeof(said), "(its store of %s becomes visible: %s)", name_of(at, a, sizeof(a)),
                     value_of(at, *at, b, sizeof(b)));
        }
    }
    else {
        t->chosen = what.way;
        resume(t);
    }
    check_state();
}

static void thread_main(int index)
{
    if (running->thread[index] != NULL) {
        running->thread[index]();
    }
    me->done = 1;
    me->pending = 0;
    me->what = "end";
    me->at = NULL;
    me->value = 0;
    me->stack_low = stacks[index] + STACK;
    memset(&arena.context[me - arena.thread], 0, sizeof(arena.context[me - arena.thread]));
    _longjmp(scheduler, 1);
}

static void set_up(const scenario *s)
{
    static ucontext_t here, there;
    volatile int i;
    running = s;
    memset(&arena, 0, sizeof(arena));
    memset(stacks, 0, sizeof(stacks));
    memset(waited_by, 0, sizeof(waited_by));
    memset(&old_guard, 0, sizeof(old_guard));
    memset(kept_of, 0, sizeof(kept_of));
    arena.used = (64 - (uintptr_t)arena.bytes % 64) % 64;
    end_of_main = PEP788_FINAL;
    subs_end_before_flag = n_cells = n_records = n_coordinators = 0;
    copy_r = sub_r = late_r = NULL;
    sub_c = NULL;
    linking = forking = 0;
    s->setup();
    for (i = 0; i < THREADS; i++) {
        me = &arena.thread[i];
        if (_setjmp(scheduler) == 0) {
            getcontext(&there);
            there.uc_stack.ss_sp = stacks[i];
            there.uc_stack.ss_size = STACK;
            there.uc_link = NULL;
            makecontext(&there, (void (*)(void))thread_main, 1, (int)i);
            swapcontext(&here, &there);
        }
    }
}

static void fingerprint(uint64_t key[2], const char *bytes, size_t size)
{
    uint64_t a = key[0], b = key[1], word;
    size_t i;
    for (i = 0; i + 8 <= size; i += 8) {
        memcpy(&word, bytes + i, 8);
        a = (a ^ word) * 0x9E3779B97F4A7C15u;
        a ^= a >> 32;
        b = (b + word) * 0xD6E8FEB86659FD93u;
        b ^= b >> 29;
    }
    key[0] = a;
    key[1] = b;
}

static size_t save(node *n)
{
    size_t size = offsetof(struct arena, bytes) + ((arena.used + 7) & ~(size_t)7), at;
    int i;
    at = size;
    for (i = 0; i < THREADS; i++) {
        size += (size_t)(stacks[i] + STACK - arena.thread[i].stack_low);
    }
    if (n->capacity < size) {
        n->capacity = size + 512;
        n->copy = realloc(n->copy, n->capacity);
    }
    n->size = size;
    memcpy(n->copy, &arena, at);
    for (i = 0; i < THREADS; i++) {
        size_t live = (size_t)(stacks[i] + STACK - arena.thread[i].stack_low);
        memcpy(n->copy + at, arena.thread[i].stack_low, live);
        at += live;
    }
    return size;
}

static void restore(const node *n)
{
    size_t used, at;
    int i;
    memcpy(&used, n->copy + offsetof(struct arena, used), sizeof(used));
    at = offsetof(struct arena, bytes) + ((used + 7) & ~(size_t)7);
    if (arena.used > used) {    /* what was allocated since is zero again */
        memset(arena.bytes + used, 0, arena.used - used);
    }
    memcpy(&arena, n->copy, at);
    for (i = 0; i < THREADS; i++) {
        size_t live = (size_t)(stacks[i] + STACK - arena.thread[i].stack_low);
        memcpy(arena.thread[i].stack_low, n->copy + at, live);
        at += live;
    }
}

static void grow_table(void)
{
    entry *old = table;
    size_t i, k, old_size = table_size;
    /* slots are remembered on the path and the stack of components: move them along */
    size_t *moved = old_size ? malloc(old_size * sizeof(*moved)) : NULL;
    table_size = old_size ? 2 * old_size : (size_t)1 << 18;
    table = calloc(table_size, sizeof(*table));
    for (i = 0; i < old_size; i++) {
        if (old[i].index != 0) {
            k = old[i].key[0] & (table_size - 1);
            while (table[k].index != 0) {
                k = (k + 1) & (table_size - 1);
            }
            table[k] = old[i];
            moved[i] = k;
        }
    }
    for (i = 0; i < path_used; i++) {
        path[i].slot = moved[path[i].slot];
    }
    for (i = 0; i < scc_used; i++) {
        scc_stack[i] = moved[scc_stack[i]];
    }
    free(moved);
    free(old);
}

/* Returns the slot; *is_new says whether it was free. */
static size_t look_up(const uint64_t key[2], int *is_new)
{
    size_t k;
    if (2 * (states + 1) > table_size) {
        grow_table();
    }
    k = key[0] & (table_size - 1);
    while (table[k].index != 0 && (table[k].key[0] != key[0] || table[k].key[1] != key[1])) {
        k = (k + 1) & (table_size - 1);
    }
    *is_new = table[k].index == 0;
    return k;
}

/* Pushes the present state if it is new; else returns its slot in *seen. */
static int push(size_t *seen)
{
    node *n;
    int i, is_new;
    uint64_t key[2] = {0x243F6A8885A308D3u, 0x13198A2E03707344u};
    entry *e;
    if (path_used == path_capacity) {
        path_capacity = path_capacity ? 2 * path_capacity : 512;
        path = realloc(path, path_capacity * sizeof(*path));
        memset(path + path_used, 0, (path_capacity - path_used) * sizeof(*path));
    }
    n = &path[path_used];
    save(n);
    fingerprint(key, n->copy, n->size);
    *seen = look_up(key, &is_new);
    if (!is_new) {
        return 0;
    }
    if (++states > max_states) {
        printf("explorer: scenario %s has more than %zu states\n", running->name, max_states);
        exit(2);
    }
    n->slot = *seen;
    n->next = n->n_choices = 0;
    e = &table[n->slot];
    memset(e, 0, sizeof(*e));
    memcpy(e->key, key, sizeof(key));
    e->index = e->low = ++counter;
    e->on_stack = 1;
    if (scc_used == scc_capacity) {
        scc_capacity = scc_capacity ? 2 * scc_capacity : 4096;
        scc_stack = realloc(scc_stack, scc_capacity * sizeof(*scc_stack));
    }
    scc_stack[scc_used++] = n->slot;
    for (i = 0; i < THREADS; i++) {
        int count = enabled(&arena.thread[i], n->choices + n->n_choices);
        if (count > 0) {
            e->can_go |= (uint8_t)(1u << i);
        }
        n->n_choices += count;
    }
    path_used++;
    if (path_used > deepest) {
        deepest = path_used;
    }
    if (n->n_choices == 0) {
        for (i = 0; i < THREADS; i++) {
            if (!arena.thread[i].done) {
                char a[64];
                thread_t *t = &arena.thread[i];
                fail("nobody can go on: thread %d is in \"%s\" of %s (lost wake-up or deadlock, G8)", i, t->what,
                     t->at ? name_of(t->at, a, sizeof(a)) : "-");
            }
        }
        terminals++;
        e->paths = 1;
        for (i = 0; i < n_coordinators; i++) {
            if (coordinators[i]->wake != NULL && *(word_t *)coordinators[i]->wake != 0) {
                fail("the wake lock is free at the end");
            }
            if (coordinators[i]->lock != 0) {
                fail("a lock is held at the end");
            }
        }
    }
    return 1;
}

/* A strongly connected component of the state graph. It is fine if no fair scheduler stays in it, because a thread that
   can always go on never does, or only looks: a compare-and-swap is not beaten for ever. `moved`: threads that do more
   in it than look. */
static void check_cycle(uint8_t stepped, uint8_t moved, uint8_t always_can_go, uint8_t sometimes_can_go)
{
    int i;
    cyclic = 1;
    if (moved == 0) {
        fail("a loop waits for another thread without PEP788_SPIN (threads %#x)", stepped);
    }
    for (i = 0; i < THREADS; i++) {
        if ((running->waiters >> i & 1) && moved == 1u << i) {
            fail("thread %d, which finalizes, polls: it goes round without sleeping (G8)", i);
        }
    }
    if (always_can_go & ~moved) {
        return;
    }
    for (i = 0; i < THREADS; i++) {
        if (!(running->waiters >> i & 1) || arena.thread[i].done) {
            continue;
        }
        if (moved >> i & 1) {
            fail("thread %d, which finalizes, can be kept waiting for ever (F9)", i);
        }
        if (!(sometimes_can_go >> i & 1)) {
            fail("thread %d, which finalizes, sleeps while others go round for ever (F9)", i);
        }
    }
}

static void pop(void)
{
    node *n = &path[--path_used];
    entry *e = &table[n->slot];
    if (e->low == e->index) {
        uint8_t stepped = 0, moved = 0, always = 0xff, sometimes = 0;
        size_t from = scc_used, i;
        do {
            entry *member = &table[scc_stack[--from]];
            stepped |= member->stepped;
            moved |= member->moved;
            always &= member->can_go;
            sometimes |= member->can_go;
        } while (scc_stack[from] != n->slot);
        if (stepped != 0) {
            path_used++;
            restore(n);
            check_cycle(stepped, moved, always, sometimes);
            path_used--;
        }
        for (i = from; i < scc_used; i++) {
            table[scc_stack[i]].on_stack = 0;
        }
        scc_used = from;
    }
    if (path_used > 0) {
        node *parent = &path[path_used - 1];
        entry *p = &table[parent->slot];
        p->paths += e->paths;
        if (e->on_stack) {
            if (e->low < p->low) {
                p->low = e->low;
            }
            p->stepped |= (uint8_t)(1u << parent->choices[parent->next - 1].thread);
            p->moved |= (uint8_t)(parent->advanced << parent->choices[parent->next - 1].thread);
        }
    }
}

static void explore(const scenario *s)
{
    size_t seen;
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    quiet = 1;
    states = transitions = terminals = deepest = 0;
    counter = 0;
    cyclic = 0;
    path_used = scc_used = 0;
    if (table != NULL) {
        memset(table, 0, table_size * sizeof(*table));
    }
    set_up(s);
    check_state();
    (void)push(&seen);
    while (path_used > 0) {
        node *n = &path[path_used - 1];
        choice what;
        if (n->next == n->n_choices) {
            pop();
            continue;
        }
        restore(n);
        what = n->choices[n->next++];
        transitions++;
        step(what);
        path[path_used - 1].advanced = advanced;
        if (!push(&seen)) {
            entry *e = &table[path[path_used - 1].slot], *other = &table[seen];
            if (other->on_stack) {
                if (other->index < e->low) {
                    e->low = other->index;
                }
                e->stepped |= (uint8_t)(1u << what.thread);
                e->moved |= (uint8_t)(advanced << what.thread);
            }
            e->paths += other->paths;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    {
        double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
        double ways = table[0].paths;
        size_t i;
        for (i = 0; i < table_size; i++) {
            if (table[i].index == 1) {
                ways = table[i].paths;
            }
        }
        printf("RESULT\t%s\t%zu\t%zu\t%g\t%zu\t%zu\t%.2f\t%s\n", s->name, states, transitions, cyclic ? -1.0 : ways,
               deepest, terminals, seconds, s->about);
        fflush(stdout);
    }
}

/* The search keeps no texts: the trace is made by making the same choices again. */
static void print_trace(void)
{
    size_t i, n = path_used;
    choice *choices = calloc(n + 1, sizeof(*choices));
    for (i = 0; i < n; i++) {
        if (path[i].next > 0) {
            choices[i] = path[i].choices[path[i].next - 1];
        }
        else {
            n = i;
        }
    }
    replaying = 1;
    quiet = 0;
    path_used = 0;
    set_up(running);
    for (i = 0; i < n; i++) {
        int t = choices[i].thread;
        char before[64], at[64] = "";
        snprintf(before, sizeof(before), "%s %s", choices[i].way < 0 ? "store visible" : arena.thread[t].what,
                 arena.thread[t].at ? name_of(arena.thread[t].at, at, sizeof(at)) : "");
        if (i + 1 == n) {
            printf("%5zu  T%d: (last) %s\n", i + 1, t, before);
        }
        step(choices[i]);
        printf("%5zu  T%d: %s\n", i + 1, t, said[0] ? said : before);
    }
}

int main(int argc, char **argv)
{
    volatile size_t i;
    volatile int found = 0;
    int k;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (i = 0; i < sizeof(scenarios) / sizeof(*scenarios); i++) {
        int wanted = argc < 2;
        for (k = 1; k < argc; k++) {
            wanted |= strcmp(argv[k], scenarios[i].name) == 0;
            if (strcmp(argv[k], "--list") == 0) {
                printf("%s\t%s\n", scenarios[i].name, scenarios[i].about);
            }
        }
        if (wanted) {
            found++;
            if (_setjmp(failed) != 0) {
                if (!replaying) {
                    print_trace();
                }
                return 1;
            }
            explore(&scenarios[i]);
        }
    }
    return found || (argc > 1 && strcmp(argv[1], "--list") == 0) ? 0 : 2;
}
