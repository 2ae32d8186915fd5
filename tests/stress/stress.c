/* One batch of `make stress`: initializes and finalizes Python again and again
   while native threads attach through views, and checks what must hold at every
   step.  run.py starts it and reads what it writes: a line "c ..." of figures
   after each cycle, "CRASH signal pid" before it dies.

   stress MODE seed=N cycles=N threads=N control=0|1 rounds=0|1 hold=0|1

   cycles   init/finalize, every way to attach
   starve   init/finalize, only taking and closing guards, no pause (F9)
   subs     subinterpreters created and ended under fire, then finalize
   forks    children of fork() finalize and exit, the parent goes on
   daemons  attached daemon threads take and close guards, no pause (F9); a
            process each, because a daemon thread that outlives its interpreter
            is CPython's own crash on the next Py_Initialize

   control=1 does the same without a call of the API: as many threads attach with
   PyGILState_Ensure, and a lock of this program keeps them out of finalization.
   What fails or grows there is CPython's own. */
#include <pep788.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 64
#define MAIL 8
#define SLOTS 4
#define OURS (!PEP788_NATIVE)

#define LOAD(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define ADD(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define EXCHANGE(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
/* Only its own thread adds to a worker's figures. */
#define COUNT(field) __atomic_fetch_add(&(field), 1, __ATOMIC_RELAXED)

/* ---- what all threads see ------------------------------------------------ */

/* The main interpreter: its generation * 4 + one of these. */
enum { DOWN, INITIALIZING, UP, FINISHING };
static unsigned long state;

static uint64_t seed = 1;
static unsigned cycles = 10, thread_count = 8;
static int control, rounds, hold, own_gil;
static int stop;
static unsigned forking;        /* workers that are in, or about to enter, fork */
static unsigned rounds_left;    /* new threads and callbacks of this generation */
static const char *mode = "cycles";

/* The control's threads are inside it while attached; and see operate_gently.
   Writers first, or finalization waits for ever. */
static pthread_rwlock_t gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

typedef struct {
    unsigned long finalizations, subs, own, forks, lost;
} figures;
static figures *totals;         /* shared with forked children */

typedef struct target {
    PyInterpreterView *view;
    int64_t id;
    int is_main;
    int dead;                   /* its interpreter was destroyed */
    int refs;
    unsigned long serial;
    unsigned long generation;   /* of the main interpreter */
    PyThreadState *tstate;      /* main thread only */
} target;

static target main_target = {NULL, 0, 1, 0, 1, 0, 0, NULL};
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static target *slots[SLOTS];

/* Guards that one thread takes and another closes. */
static PyInterpreterGuard *mail[MAIL];

typedef struct {
    pthread_t thread;
    unsigned index;
    uint64_t random;
    unsigned long guards, refused, ensures;
    unsigned long closed_state;     /* generation of main that refused us for good */
    unsigned long closed_serial;    /* same of a subinterpreter */
    unsigned idle;
    int depth;                      /* Ensures */
    int kept;                       /* the outermost thread state is kept */
    PyInterpreterGuard *chain;
    int finished;
    char pad[64];
} worker;
static worker workers[MAX_THREADS];
static worker main_worker;

static void bug(worker *w, const char *what, ...)
{
    char text[400];
    va_list list;
    int n = snprintf(text, sizeof(text), "stress: FAILURE: mode %s seed %" PRIu64 " thread %u generation %lu: ",
                     mode, seed, w->index, LOAD(&state) / 4);
    va_start(list, what);
    n += vsnprintf(text + n, sizeof(text) - (size_t)n, what, list);
    va_end(list);
    n = n > 398 ? 398 : n;
    text[n] = '\n';
    if (write(2, text, (size_t)n + 1) < 0) {
        _exit(99);
    }
    abort();
}

/* xorshift64*: the mix of operations is the seed's, the scheduling is not. */
static uint32_t draw(worker *w, uint32_t below)
{
    uint64_t x = w->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    w->random = x;
    return (uint32_t)((x * UINT64_C(2685821657736338717)) >> 33) % below;
}

static void sow(worker *w, unsigned index)
{
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15) + (index + 1) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    w->random = x | 1;
    w->index = index;
}

/* ---- taking guards, with everything that must hold ----------------------- */

#if OURS
/* F9 lets a later round (G6) hand guards out again, so only without those. The
   reason may be that of the generation before until this one is UP. */
static int closed_for_good(target *t, unsigned long before)
{
    unsigned long now = LOAD(&state);
    return !rounds && before / 4 == now / 4 && (before % 4 == UP || before % 4 == FINISHING)
           && (t->is_main || t->serial != 0);
}
#endif

static void accepted(worker *w, target *t)
{
    unsigned long now = LOAD(&state);
    COUNT(w->guards);
    if (now % 4 == DOWN) {
        bug(w, "a guard was given after finalization");
    }
    if (LOAD(&t->dead)) {
        bug(w, "a guard of subinterpreter %" PRId64 " was given after its end", t->id);
    }
    if (t->is_main && w->closed_state == now / 4 + 1) {
        bug(w, "a guard was given after a refusal in the same generation");
    }
    if (!t->is_main && w->closed_serial == t->serial) {
        bug(w, "a guard of subinterpreter %" PRId64 " was given after a refusal", t->id);
    }
}

static void refused(worker *w, target *t, unsigned long before)
{
    COUNT(w->refused);
#if OURS
    Pep788_Failure failure = Pep788_LastFailure();
    if (failure == PEP788_NO_MEMORY || failure == PEP788_OK) {
        bug(w, "refused with the reason '%s'", Pep788_FailureName(failure));
    }
    if (!t->is_main && failure == PEP788_NOT_INITIALIZED) {
        bug(w, "subinterpreter %" PRId64 " was there and is now 'not initialized'", t->id);
    }
    if (failure == PEP788_FINALIZING && closed_for_good(t, before)) {
        if (t->is_main) {
            w->closed_state = before / 4 + 1;
        }
        else {
            w->closed_serial = t->serial;
        }
    }
#endif
    (void)t;
    (void)before;
}

static PyInterpreterGuard *take(worker *w, target *t)
{
    unsigned long before = LOAD(&state);
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(t->view);
    if (guard == NULL) {
        refused(w, t, before);
    }
    else {
        accepted(w, t);
    }
    return guard;
}

static PyThreadStateToken *enter(worker *w, target *t, int kept)
{
    unsigned long before = LOAD(&state);
    PyThreadStateToken *token = kept ? Pep788_EnsureKept(t->view)
                                     : PyThreadState_EnsureFromView(t->view);
    if (token == NULL) {
        refused(w, t, before);
    }
    else {
        accepted(w, t);
        COUNT(w->ensures);
        w->depth++;
    }
    return token;
}

static PyThreadStateToken *ensure_from_view(worker *w, target *t)
{
    return enter(w, t, 0);
}

static PyThreadStateToken *ensure(worker *w, PyInterpreterGuard *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    if (token == NULL) {
        bug(w, "Ensure with an open guard gave NULL");
    }
    COUNT(w->ensures);
    w->depth++;
    return token;
}

static void release(worker *w, PyThreadStateToken *token)
{
    w->depth--;
    PyThreadState_Release(token);
}

static void release_kept(worker *w, PyThreadStateToken *token)
{
    w->depth--;
    Pep788_ReleaseKept(token);
}

static void close_guard(PyInterpreterGuard *guard)
{
    if (guard != NULL) {
        PyInterpreterGuard_Close(guard);
    }
}

static void empty_mail(void)
{
    int i;
    for (i = 0; i < MAIL; i++) {
        close_guard(EXCHANGE(&mail[i], NULL));
    }
}

/* ---- what a thread does while attached ----------------------------------- */

static void check_attached(worker *w, target *t)
{
    int64_t id = PyInterpreterState_GetID(PyInterpreterState_Get());
    if (!Py_IsInitialized()) {
        bug(w, "the finalizing flag is set inside an Ensure");
    }
    if (id != t->id) {
        bug(w, "attached to interpreter %" PRId64 " through a view of %" PRId64, id, t->id);
    }
    if (LOAD(&t->dead)) {
        bug(w, "attached to subinterpreter %" PRId64 " after its end", id);
    }
}

static void run_python(worker *w, const char *code)
{
    PyObject *module = PyImport_AddModule("__main__");      /* borrowed */
    PyObject *result = NULL;
    if (module != NULL) {
        PyObject *globals = PyModule_GetDict(module);
        result = PyRun_String(code, Py_file_input, globals, globals);
    }
    if (result == NULL) {
        PyErr_Print();
        bug(w, "Python code failed: %s", code);
    }
    Py_DECREF(result);
}

/* Set while code of ours runs below CPython's fork handlers. */
static int in_destructor;

static void dropped(PyObject *capsule)
{
    target *t = (target *)PyCapsule_GetPointer(capsule, "stress.target");
    worker *w = (worker *)PyCapsule_GetContext(capsule);
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    PyThreadStateToken *token;
    ADD(&in_destructor, 1);
    if (guard == NULL) {
        bug(w, "a destructor run by Release was refused a guard");
    }
    token = PyThreadState_Ensure(guard);
    if (token == NULL) {
        bug(w, "a destructor run by Release could not Ensure");
    }
    check_attached(w, t);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
    ADD(&in_destructor, -1);
}

/* Something whose destructor runs when the thread state is cleared. */
static void leave_destructor(worker *w, target *t)
{
    PyObject *dict = PyThreadState_GetDict();       /* borrowed */
    PyObject *capsule = PyCapsule_New(t, "stress.target", dropped);
    if (dict == NULL || capsule == NULL || PyCapsule_SetContext(capsule, w) < 0
        || PyDict_SetItemString(dict, "stress", capsule) < 0) {
        bug(w, "no capsule");
    }
    Py_DECREF(capsule);
}

static const char *const snippets[] = {
    "x = [object() for _ in range(20)]\n",
    "sum(range(50))\n",
    "import json.decoder\njson.decoder.JSONDecoder().decode('[1, 2]')\n",
    "import threading\nl = threading.local()\nl.x = []\n",
    "try:\n    {}['x']\nexcept KeyError:\n    pass\n",
};

static const char *const new_work[] = {
    "import atexit\natexit.register(lambda: None)\n",
    /* 3.12.0-3.12.2 and any version after the flag: no new threads. */
    "import threading\n"
    "try:\n    threading.Thread(target=sum, args=([1],)).start()\n"
    "except RuntimeError:\n    pass\n",
};

static void start_round(worker *w)
{
    unsigned long left = LOAD(&rounds_left);
    if (rounds && left != 0 && draw(w, 50) == 0 && ADD(&rounds_left, (unsigned)-1) != 0) {
        run_python(w, new_work[draw(w, 2)]);
    }
}

static void attached(worker *w, target *t, int depth)
{
    PyInterpreterGuard *guard;
    PyThreadStateToken *token;
    PyThreadState *saved;
    PyGILState_STATE gil;
    check_attached(w, t);
    switch (w->depth == 0 ? 0 : draw(w, depth < 3 ? 13 : 4)) {
    case 0: case 1:
        run_python(w, snippets[draw(w, sizeof(snippets) / sizeof(*snippets))]);
        break;
    case 2:
        if (!w->kept) {     /* there it runs late, when guards are refused */
            leave_destructor(w, t);
        }
        break;
    case 3:
        start_round(w);
        break;
    case 4:
        guard = PyInterpreterGuard_FromCurrent();
        if (guard == NULL) {
            bug(w, "FromCurrent was refused inside an Ensure");
        }
        COUNT(w->guards);
        token = ensure(w, guard);
        attached(w, t, depth + 1);
        release(w, token);
        close_guard(guard);
        break;
    case 5: case 6:
        token = ensure_from_view(w, t);
        if (token == NULL) {
            bug(w, "EnsureFromView was refused inside an Ensure");
        }
        attached(w, t, depth + 1);
        release(w, token);
        break;
    case 7: case 8:
        gil = PyGILState_Ensure();
        attached(w, t, depth + 1);
        PyGILState_Release(gil);
        break;
    case 9:
        saved = PyEval_SaveThread();
        guard = take(w, t);
        if (guard == NULL) {
            bug(w, "FromView was refused between Ensure and Release");
        }
        if (draw(w, 2)) {
            token = ensure(w, guard);
            attached(w, t, depth + 1);
            release(w, token);
        }
        close_guard(guard);
        PyEval_RestoreThread(saved);
        break;
    case 12:
        token = enter(w, t, 1);
        if (token == NULL) {
            bug(w, "EnsureKept was refused inside an Ensure");
        }
        attached(w, t, depth + 1);
        release_kept(w, token);
        break;
    case 10:
        saved = PyEval_SaveThread();
        sched_yield();
        PyEval_RestoreThread(saved);
        break;
    case 11:
        if (!t->is_main) {
            /* E4: another interpreter inside this one. */
            token = ensure_from_view(w, &main_target);
            if (token != NULL) {
                attached(w, &main_target, depth + 1);
                release(w, token);
            }
        }
        else {
            PyInterpreterView *view = PyInterpreterView_FromCurrent();
            if (view == NULL) {
                bug(w, "no view of the current interpreter");
            }
            guard = PyInterpreterGuard_FromView(view);
            if (guard == NULL) {
                bug(w, "refused through a view of the current interpreter");
            }
            COUNT(w->guards);
            PyInterpreterView_Close(view);
            close_guard(guard);
        }
        break;
    }
    check_attached(w, t);
}

/* ---- forks --------------------------------------------------------------- */

static void no_guards_left(worker *w, const char *when)
{
#if OURS
    size_t n = pep788_shared.main.pair[0] == NULL ? 0 : pep788_record_count(&pep788_shared.main);
    if (n != 0) {
        bug(w, "%zd guards of the main interpreter are counted %s", (Py_ssize_t)n, when);
    }
#endif
    (void)w;
    (void)when;
}

/* Where the child of a fork is. Up to 3.12 CPython forks while other threads may
   be creating or deleting thread states; the child then waits in
   PyOS_AfterFork_Child for a lock whose holder is gone, or walks half a list.
   The control does that as well. Such children are counted, not failures. */
enum { NO_CHILD, IN_OUR_HANDLER, IN_CPYTHON, OUT };
static int fork_stage;
#define LOST 42
#define PATIENCE 40

/* In mode daemons: 3.10 crashes in a daemon thread that finalization finds in CPython's
   own code, once in 600 to 1,200 processes; the control does so as often. One that is
   in a call of ours is a failure. */
static __thread int is_daemon, in_churn;

static int lost_to_cpython(void)
{
    if (PY_VERSION_HEX < 0x030B0000 && is_daemon && !in_churn) {
        return 1;
    }
    return PY_VERSION_HEX < 0x030D0000 && LOAD(&fork_stage) == IN_CPYTHON && LOAD(&in_destructor) == 0;
}

/* Registered before the header's handler, and after it. */
static void child_begins(void)
{
    STORE(&fork_stage, IN_OUR_HANDLER);
    STORE(&in_destructor, 0);
    alarm(PATIENCE);
}

static void child_goes_on(void)
{
    STORE(&fork_stage, IN_CPYTHON);
}

/* The only thread of a forked child, attached to the main interpreter. */
static void child(worker *w)
{
    PyInterpreterGuard *guard;
    PyThreadStateToken *token;
    int i;
    STORE(&fork_stage, OUT);
    if (!control) {
        if (OURS && Pep788_GuardCount(PyInterpreterState_Get()) != 0) {
            bug(w, "%zd guards of before the fork count in the child",
                Pep788_GuardCount(PyInterpreterState_Get()));
        }
        guard = PyInterpreterGuard_FromView(main_target.view);
        token = guard == NULL ? NULL : PyThreadState_Ensure(guard);
        if (token == NULL) {
            bug(w, "no guard in the child of a fork");
        }
        run_python(w, snippets[draw(w, 2)]);
        PyThreadState_Release(token);
        close_guard(guard);
        if (draw(w, 2)) {
            empty_mail();
            for (i = 0; i < (int)thread_count; i++) {
                close_guard(workers[i].chain);
            }
        }
    }
#if PY_VERSION_HEX >= 0x030D0000
    /* 3.13+: Py_FinalizeEx uses the main thread's state, which the fork freed
       if another thread forked: it crashes, with and without this header. */
    if (w != &main_worker) {
        no_guards_left(w, "in the child of a fork");
        _exit(0);
    }
#endif
    if (Py_FinalizeEx() != 0) {
        bug(w, "Py_FinalizeEx failed in the child of a fork");
    }
    if (!control) {
        guard = PyInterpreterGuard_FromView(main_target.view);
        if (guard != NULL) {
            bug(w, "a guard was given after finalization in the child of a fork");
        }
        no_guards_left(w, "in the child of a fork");
    }
    ADD(&totals->finalizations, 1);
    _exit(0);
}

static void reap(worker *w, pid_t pid)
{
    int status = 0;
    pid_t got;
    do {
        got = waitpid(pid, &status, 0);
    } while (got < 0 && errno == EINTR);
    if (got == pid && WIFEXITED(status) && WEXITSTATUS(status) == LOST) {
        ADD(&totals->lost, 1);
    }
    else if (got != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        bug(w, "the child of a fork ended with wait status 0x%x", (unsigned)status);
    }
    ADD(&totals->forks, 1);
    if (write(1, "a\n", 2) < 0) {      /* alive */
        _exit(98);
    }
}

/* Attached. */
static void fork_python(worker *w)
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *result = os == NULL ? NULL : PyObject_CallMethod(os, "fork", NULL);
    long pid = result == NULL ? -1 : PyLong_AsLong(result);
    PyThreadState *saved;
    Py_XDECREF(os);
    if (pid < 0 && LOAD(&state) % 4 == FINISHING && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Clear();      /* 3.12.0-3.12.2: no fork once finalization has begun */
        return;
    }
    if (pid < 0) {
        PyErr_Print();
        bug(w, "fork failed");
    }
    Py_DECREF(result);
    if (pid == 0) {
        child(w);
    }
    saved = PyEval_SaveThread();
    reap(w, (pid_t)pid);
    PyEval_RestoreThread(saved);
}

/* Not attached: fork() of C. The child may use guards, but not attach. */
static void fork_raw(worker *w)
{
    PyInterpreterGuard *before = PyInterpreterGuard_FromView(main_target.view);
    pid_t pid = fork();
    if (pid == 0) {
        PyInterpreterGuard *guard;
        STORE(&fork_stage, OUT);
        guard = PyInterpreterGuard_FromView(main_target.view);
        if (before != NULL && guard == NULL) {
            bug(w, "no guard in the child of a C fork");
        }
        close_guard(before);
        close_guard(guard);
        no_guards_left(w, "in the child of a C fork");
        _exit(0);
    }
    if (pid < 0) {
        bug(w, "fork failed: %d", errno);
    }
    close_guard(before);
    reap(w, pid);
}

/* ---- native threads ------------------------------------------------------ */

static target *borrow(worker *w)
{
    target *t = &main_target;
    if (strcmp(mode, "subs") == 0 && draw(w, 4) != 0) {
        unsigned i = draw(w, SLOTS);
        pthread_mutex_lock(&slots_lock);
        if (slots[i] != NULL) {
            t = slots[i];
            t->refs++;
        }
        pthread_mutex_unlock(&slots_lock);
    }
    return t;
}

static void give_back(target *t)
{
    int last = 0;
    if (!t->is_main) {
        pthread_mutex_lock(&slots_lock);
        last = --t->refs == 0;
        pthread_mutex_unlock(&slots_lock);
    }
    if (last) {
        PyInterpreterView_Close(t->view);
        free(t);
    }
}

static int operate(worker *w, target *t)
{
    PyInterpreterGuard *guard;
    PyThreadStateToken *token;
    int starve = strcmp(mode, "starve") == 0;
    uint32_t what = draw(w, starve ? 4 : 14);
    if (what == 4 && !t->is_main) {
        what = 0;       /* guards in the mail outlive the borrowed target */
    }
    if (what == 1 && !t->is_main) {
        what = 0;
    }
    switch (what) {
    case 0: case 2: case 3:
        guard = take(w, t);
        if (guard != NULL) {
            accepted(w, t);
            close_guard(guard);
        }
        return guard != NULL;
    case 1:
        /* One guard is open at every instant. */
        guard = take(w, t);
        close_guard(w->chain);
        STORE(&w->chain, guard);
        return guard != NULL;
    case 4:
        guard = take(w, t);
        if (guard != NULL) {
            close_guard(EXCHANGE(&mail[draw(w, MAIL)], guard));
        }
        return guard != NULL;
    case 5: case 6: case 7: case 8:
        token = ensure_from_view(w, t);
        if (token != NULL) {
            attached(w, t, 0);
            release(w, token);
        }
        return token != NULL;
    case 12: case 13:
        token = enter(w, t, 1);
        if (token != NULL) {
            w->kept = 1;
            attached(w, t, 0);
            w->kept = 0;
            release_kept(w, token);
        }
        return token != NULL;
    case 9: case 10:
        guard = take(w, t);
        if (guard != NULL) {
            token = ensure(w, guard);
            attached(w, t, 0);
            release(w, token);
            if (draw(w, 2)) {       /* and once more with the same guard */
                token = ensure(w, guard);
                attached(w, t, 0);
                release(w, token);
            }
            close_guard(guard);
        }
        return guard != NULL;
    default:
        /* The old API is safe under a guard of the main interpreter. 3.15's own takes
           a native guard while it makes a thread state; a child forked meanwhile has
           that guard for ever, and its Py_FinalizeEx waits for it (3.15.2). */
        guard = take(w, &main_target);
        if (guard != NULL) {
            int first = PY_VERSION_HEX >= 0x030F0000 && strcmp(mode, "forks") == 0;
            PyThreadStateToken *token = first ? ensure(w, guard) : NULL;
            PyGILState_STATE gil = PyGILState_Ensure();
            attached(w, &main_target, 0);
            PyGILState_Release(gil);
            if (first) {
                release(w, token);
            }
            close_guard(guard);
        }
        return guard != NULL;
    }
}

/* Refused: give back what holds finalization up, then go easy on the machine. */
static void rest(worker *w)
{
    struct timespec nap = {0, 20000};
    close_guard(w->chain);
    STORE(&w->chain, NULL);
    empty_mail();
    if (++w->idle > 64) {
        nanosleep(&nap, NULL);
    }
    else if (w->idle > 16) {
        sched_yield();
    }
}

static int operate_as_before(worker *w)
{
    int up;
    pthread_rwlock_rdlock(&gate);
    up = LOAD(&state) % 4 == UP;
    if (up) {
        PyGILState_STATE gil = PyGILState_Ensure();
        run_python(w, snippets[draw(w, sizeof(snippets) / sizeof(*snippets))]);
        PyGILState_Release(gil);
        COUNT(w->ensures);
    }
    pthread_rwlock_unlock(&gate);
    return up;
}

/* Native 3.15 is starved by what F9 allows, so there threads pause once
   finalization has begun. And it gives guards while Py_Initialize still runs,
   to threads that then run Python in half an interpreter; a view of an interpreter
   of the generation before gives those of another one that has its number (V2). */
#if PEP788_NATIVE
static int operate_gently(worker *w, target *t)
{
    int done = 0;
    if (LOAD(&state) % 4 != UP) {
        struct timespec nap = {0, 2000000};
        rest(w);
        nanosleep(&nap, NULL);
    }
    pthread_rwlock_rdlock(&gate);
    if (LOAD(&state) % 4 != DOWN && (t->is_main || t->generation == LOAD(&state) / 4)) {
        done = operate(w, t);
    }
    pthread_rwlock_unlock(&gate);
    return done;
}
#else
#  define operate_gently operate
#endif

static void maybe_fork(worker *w)
{
    PyThreadStateToken *token;
    if (strcmp(mode, "forks") != 0 || draw(w, 400) != 0 || LOAD(&state) % 4 != UP) {
        return;
    }
    if (ADD(&forking, 1) < 2) {
        if (draw(w, 2)) {
            fork_raw(w);
        }
        else {
            token = ensure_from_view(w, &main_target);
            if (token != NULL) {
                fork_python(w);
                release(w, token);
            }
        }
    }
    ADD(&forking, (unsigned)-1);
}

static void *work(void *argument)
{
    worker *w = (worker *)argument;
    while (!LOAD(&stop)) {
        target *t;
        if (control) {
            w->idle = operate_as_before(w) ? 0 : w->idle;
            if (w->idle || LOAD(&state) % 4 != UP) {
                rest(w);
            }
            continue;
        }
        t = borrow(w);
        if (operate_gently(w, t)) {
            w->idle = 0;
        }
        else {
            rest(w);
        }
        give_back(t);
        maybe_fork(w);
    }
    rest(w);
    STORE(&w->finished, 1);
    return NULL;
}

/* ---- the main thread ----------------------------------------------------- */

static long resident(void)
{
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file != NULL) {
        if (fscanf(file, "%ld %ld", &ignored, &pages) != 2) {
            pages = 0;
        }
        fclose(file);
    }
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static unsigned long sum_of(size_t offset)
{
    unsigned long n = 0;
    unsigned i;
    for (i = 0; i < thread_count; i++) {
        n += __atomic_load_n((unsigned long *)(void *)((char *)&workers[i] + offset), __ATOMIC_RELAXED);
    }
    return n;
}
#define SUM(field) (sum_of(offsetof(worker, field)) + main_worker.field)

static void say(void)
{
    char text[300];
    int n = snprintf(text, sizeof(text), "c %lu %lu %lu %lu %lu %lu %lu %lu %ld\n", LOAD(&totals->finalizations),
                     SUM(guards), SUM(refused), SUM(ensures), LOAD(&totals->subs), LOAD(&totals->own),
                     LOAD(&totals->forks), LOAD(&totals->lost), resident());
    if (write(1, text, (size_t)n) < 0) {
        _exit(98);
    }
}

static void initialize(void)
{
    PyConfig config;
    PyStatus status;
    unsigned long before = LOAD(&state);
    STORE(&state, (before / 4 + 1) * 4 + INITIALIZING);
    STORE(&rounds_left, 3u);
    if (PEP788_NATIVE || control) {
        pthread_rwlock_wrlock(&gate);
    }
    PyConfig_InitPythonConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 0;
    status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) {
        bug(&main_worker, "Py_Initialize: %s", status.err_msg ? status.err_msg : "?");
    }
    run_python(&main_worker, "import threading, json.decoder, atexit, os\n");
    if (!control && Pep788_Init() < 0) {
        PyErr_Print();
        bug(&main_worker, "Pep788_Init failed");
    }
    if (before == 0) {
        pthread_atfork(NULL, NULL, child_goes_on);
    }
    main_target.tstate = PyThreadState_Get();
    STORE(&state, (before / 4 + 1) * 4 + UP);
    if (PEP788_NATIVE || control) {
        pthread_rwlock_unlock(&gate);
    }
}

/* atexit: guards can still be taken (G5), and other threads close them. */
static PyObject *at_exit(PyObject *self, PyObject *unused)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    (void)self;
    (void)unused;
    if (guard == NULL) {
        bug(&main_worker, "an atexit callback was refused a guard");
    }
    main_worker.guards++;
    if (PEP788_NATIVE || LOAD(&stop) || strcmp(mode, "starve") == 0) {
        close_guard(guard);
    }
    else {
        close_guard(EXCHANGE(&mail[draw(&main_worker, MAIL)], guard));
    }
    Py_RETURN_NONE;
}

static void register_at_exit(void)
{
    static PyMethodDef method = {"at_exit", at_exit, METH_NOARGS, NULL};
    PyObject *function = PyCFunction_NewEx(&method, NULL, NULL);
    PyObject *module = PyImport_ImportModule("atexit");
    PyObject *result = module == NULL || function == NULL
                           ? NULL : PyObject_CallMethod(module, "register", "O", function);
    if (result == NULL) {
        PyErr_Print();
        bug(&main_worker, "atexit.register failed");
    }
    Py_DECREF(result);
    Py_DECREF(module);
    Py_DECREF(function);
}

/* Detached until the workers have done this much more, so that every phase of
   the interpreter's life is met. */
static void let_work(unsigned long more)
{
    PyThreadState *saved = PyEval_SaveThread();
    unsigned long done = control ? SUM(ensures) : SUM(guards), wanted = done + more;
    while ((control ? SUM(ensures) : SUM(guards)) < wanted) {
        struct timespec nap = {0, 20000};
        nanosleep(&nap, NULL);
    }
    PyEval_RestoreThread(saved);
}

static void finalize(void)
{
    if (control) {
        PyThreadState *saved = PyEval_SaveThread();
        pthread_rwlock_wrlock(&gate);
        PyEval_RestoreThread(saved);
    }
    STORE(&state, LOAD(&state) / 4 * 4 + FINISHING);
    if (Py_FinalizeEx() != 0) {
        bug(&main_worker, "Py_FinalizeEx gave -1");
    }
    STORE(&state, LOAD(&state) / 4 * 4 + DOWN);
    if (control) {
        pthread_rwlock_unlock(&gate);
    }
    ADD(&totals->finalizations, 1);
    if (!control) {
        no_guards_left(&main_worker, "after finalization");
    }
    say();
}

static void start_workers(void)
{
    unsigned i;
    for (i = 0; i < thread_count; i++) {
        sow(&workers[i], i);
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            bug(&main_worker, "pthread_create failed");
        }
    }
}

/* Python is initialized: afterwards no guard may be open. */
static void join_workers(void)
{
    unsigned i;
    PyThreadState *saved = PyEval_SaveThread();
    STORE(&stop, 1);
    for (i = 0; i < thread_count; i++) {
        pthread_join(workers[i].thread, NULL);
        if (!LOAD(&workers[i].finished)) {
            bug(&main_worker, "thread %u was lost", i);
        }
    }
    empty_mail();
    PyEval_RestoreThread(saved);
    if (!control && OURS && Pep788_GuardCount(PyInterpreterState_Get()) != 0) {
        bug(&main_worker, "%zd guards are open at the end", Pep788_GuardCount(PyInterpreterState_Get()));
    }
}

static void cycle(unsigned i)
{
    initialize();
    if (!control && draw(&main_worker, 2)) {
        register_at_exit();
    }
    if (draw(&main_worker, 8) != 0) {
        let_work(draw(&main_worker, 400));
    }
    if (i + 1 == cycles) {
        join_workers();
    }
    finalize();
}

/* -- subinterpreters -- */

static void put_slot(unsigned i, target *t)
{
    target *old;
    pthread_mutex_lock(&slots_lock);
    old = slots[i];
    slots[i] = t;
    pthread_mutex_unlock(&slots_lock);
    if (old != NULL) {
        give_back(old);
    }
}

static void new_sub(unsigned i)
{
    static unsigned long serial;
    target *t = (target *)calloc(1, sizeof(*t));
    int own = 0;
    if (t == NULL) {
        bug(&main_worker, "no memory");
    }
#if PY_VERSION_HEX >= 0x030C0000
    own = own_gil && draw(&main_worker, 2);
    if (own) {
        PyInterpreterConfig config = {
            .use_main_obmalloc = 0,
            .allow_threads = 1,
            .allow_daemon_threads = 0,
            .check_multi_interp_extensions = 1,
            .gil = PyInterpreterConfig_OWN_GIL,
        };
        PyStatus status = Py_NewInterpreterFromConfig(&t->tstate, &config);
        if (PyStatus_Exception(status)) {
            bug(&main_worker, "Py_NewInterpreterFromConfig: %s", status.err_msg ? status.err_msg : "?");
        }
        ADD(&totals->own, 1);
    }
#endif
    if (!own) {
        t->tstate = Py_NewInterpreter();
    }
    if (t->tstate == NULL) {
        bug(&main_worker, "Py_NewInterpreter failed");
    }
    ADD(&totals->subs, 1);
    run_python(&main_worker, "import threading, json.decoder, atexit\n");
    t->id = PyInterpreterState_GetID(PyInterpreterState_Get());
    t->refs = 1;
    t->serial = ++serial;
    t->generation = LOAD(&state) / 4;
    if (!control) {
        if (Pep788_Init() < 0 || (t->view = PyInterpreterView_FromCurrent()) == NULL) {
            PyErr_Print();
            bug(&main_worker, "no view of subinterpreter %" PRId64, t->id);
        }
        if (draw(&main_worker, 3) == 0) {
            PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
            if (guard == NULL) {
                bug(&main_worker, "no guard of a new subinterpreter");
            }
            close_guard(guard);
        }
    }
    (void)PyThreadState_Swap(main_target.tstate);
    put_slot(i, t);
}

static void end_sub(unsigned i)
{
    target *t = slots[i];       /* only the main thread writes slots */
    if (t == NULL || t->tstate == NULL) {
        return;
    }
    (void)PyThreadState_Swap(t->tstate);
    t->tstate = NULL;
    Py_EndInterpreter(PyThreadState_Get());
    STORE(&t->dead, 1);
    (void)PyThreadState_Swap(main_target.tstate);
    if (control || draw(&main_worker, 2)) {
        put_slot(i, NULL);      /* else threads go on trying it */
    }
}

static void cycle_with_subs(unsigned n)
{
    unsigned i, k;
    initialize();
    for (k = 0; k < 8; k++) {
        i = draw(&main_worker, SLOTS);
        end_sub(i);
        new_sub(i);
        if (draw(&main_worker, 3)) {
            let_work(draw(&main_worker, 100));
        }
    }
    for (i = 0; i < SLOTS; i++) {
        end_sub(i);
    }
    if (n + 1 == cycles) {
        join_workers();
    }
    finalize();
    for (i = 0; i < SLOTS; i++) {
        put_slot(i, NULL);
    }
}

/* -- forks -- */

static void cycle_with_forks(unsigned n)
{
    unsigned k;
    initialize();
    for (k = 0; k < 3; k++) {
        let_work(draw(&main_worker, 200));
        fork_python(&main_worker);
    }
    if (n + 1 == cycles) {
        join_workers();
    }
    finalize();
}

/* -- daemon threads -- */

static unsigned long daemon_guards, daemon_refused;

static PyObject *churn_guards(void)
{
    PyInterpreterGuard *held = NULL;
    int i;
    for (i = 0; i < 200 && !control; i++) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        if (guard == NULL) {
            close_guard(held);
            if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
                PyErr_Print();
                bug(&main_worker, "refused with another exception");
            }
            PyErr_Clear();
            ADD(&daemon_refused, 1);
            Py_RETURN_FALSE;
        }
        close_guard(held);      /* the next is taken before the last is closed */
        held = guard;
        if (i % 16 == 0) {
            PyThreadStateToken *token = PyThreadState_Ensure(guard);
            if (token == NULL) {
                bug(&main_worker, "a daemon thread could not Ensure");
            }
            PyThreadState_Release(token);
        }
        ADD(&daemon_guards, 1);
    }
    close_guard(held);
    if (control) {
        ADD(&daemon_guards, 200);
    }
    Py_RETURN_TRUE;
}

static PyObject *churn(PyObject *self, PyObject *unused)
{
    PyObject *result;
    (void)self;
    (void)unused;
    is_daemon = in_churn = 1;
    result = churn_guards();
    in_churn = 0;
    return result;
}

static void daemon_process(void)
{
    static PyMethodDef method = {"churn", churn, METH_NOARGS, NULL};
    PyObject *function;
    PyThreadState *saved;
    unsigned i;
    initialize();
    function = PyCFunction_NewEx(&method, NULL, NULL);
    if (function == NULL
        || PyModule_AddObject(PyImport_AddModule("__main__"), "churn", function) < 0) {
        bug(&main_worker, "no function");
    }
    run_python(&main_worker, "import sys\n"
                             "sys.setswitchinterval(0.0002)\n"
                             "def run(churn=churn):\n"
                             "    while churn(): pass\n");
    for (i = 0; i < thread_count; i++) {
        run_python(&main_worker, "threading.Thread(target=run, daemon=True).start()\n");
    }
    saved = PyEval_SaveThread();
    while (LOAD(&daemon_guards) < 2000) {
        sched_yield();
    }
    PyEval_RestoreThread(saved);
    STORE(&state, LOAD(&state) / 4 * 4 + FINISHING);
    if (Py_FinalizeEx() != 0) {
        bug(&main_worker, "Py_FinalizeEx gave -1");
    }
    no_guards_left(&main_worker, "after finalization");
    ADD(&totals->finalizations, 1);
    ADD(&((unsigned long *)(totals + 1))[0], LOAD(&daemon_guards));
    ADD(&((unsigned long *)(totals + 1))[1], LOAD(&daemon_refused));
    _exit(0);
}

static void daemon_cycle(void)
{
    unsigned long *shared = (unsigned long *)(totals + 1);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(0);       /* Python is not there yet: run.py sees to hangs */
        STORE(&fork_stage, NO_CHILD);
        daemon_process();
    }
    if (pid < 0) {
        bug(&main_worker, "fork failed: %d", errno);
    }
    reap(&main_worker, pid);
    ADD(&totals->forks, (unsigned long)-1);
    if (!control) {
        main_worker.guards = LOAD(&shared[0]);
        main_worker.refused = LOAD(&shared[1]);
    }
    say();
}

/* ---- crashes ------------------------------------------------------------- */

static void crashed(int number)
{
    char text[64];
    int n;
    if (lost_to_cpython()) {
        _exit(LOST);
    }
    n = snprintf(text, sizeof(text), "CRASH %d %ld\n", number, (long)getpid());
    if (write(1, text, (size_t)n) >= 0 && hold) {
        sleep(60);      /* run.py looks at us with a debugger and kills us */
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_crashes(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};
    size_t i;
    for (i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        struct sigaction action;
        memset(&action, 0, sizeof(action));
        action.sa_handler = crashed;
        action.sa_flags = SA_NODEFER;
        sigaction(numbers[i], &action, NULL);
    }
}

static unsigned long option(const char *argument, const char *name, unsigned long *value)
{
    size_t n = strlen(name);
    if (strncmp(argument, name, n) == 0 && argument[n] == '=') {
        *value = strtoul(argument + n + 1, NULL, 10);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    unsigned long values[7] = {1, 10, 8, 0, 0, 0, 0};
    static const char *const names[] = {"seed", "cycles", "threads", "control", "rounds", "hold", "own"};
    unsigned i;
    int k;
    for (k = 1; k < argc; k++) {
        int known = 0;
        for (i = 0; i < 7; i++) {
            known |= (int)option(argv[k], names[i], &values[i]);
        }
        if (!known) {
            mode = argv[k];
        }
    }
    seed = values[0];
    cycles = (unsigned)values[1];
    thread_count = values[2] > MAX_THREADS ? MAX_THREADS : (unsigned)values[2];
    control = values[3] != 0;
    rounds = values[4] != 0;
    hold = values[5] != 0;
    own_gil = values[6] != 0;
    catch_crashes();
    totals = (figures *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (totals == MAP_FAILED) {
        return 97;
    }
    sow(&main_worker, MAX_THREADS);
    pthread_atfork(NULL, NULL, child_begins);
    if (strcmp(mode, "daemons") == 0) {
        for (i = 0; i < cycles; i++) {
            daemon_cycle();
        }
        return 0;
    }
    main_target.view = control ? NULL : PyInterpreterView_FromMain();
    if (!control && main_target.view == NULL) {
        bug(&main_worker, "no view of the main interpreter");
    }
    start_workers();
    for (i = 0; i < cycles; i++) {
        if (strcmp(mode, "subs") == 0) {
            cycle_with_subs(i);
        }
        else if (strcmp(mode, "forks") == 0) {
            cycle_with_forks(i);
        }
        else if (strcmp(mode, "cycles") == 0 || strcmp(mode, "starve") == 0) {
            cycle(i);
        }
        else {
            fprintf(stderr, "stress: unknown mode %s\n", mode);
            return 96;
        }
    }
    if (!control) {
        PyInterpreterView_Close(main_target.view);
    }
    return 0;
}
