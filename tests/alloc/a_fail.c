/* Every allocation failing in turn: run(operation, n, forever) lets the n-th allocation that the calling thread makes
   inside one API function fail, or that one and all after it.

   Linked with --wrap for malloc, calloc and realloc, so that what the header asks of libc is counted; what CPython
   asks of its three memory domains goes through hooks. Both share one counter: a failure in each place happens once. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include "../module.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static __thread int armed, fired;
static __thread long countdown;
static __thread int forever;
static int all_threads; /* libc's allocations of every thread fail: see starve() */

static int
fails(void)
{
    if (!armed || countdown-- > 0) {
        return 0;
    }
    countdown = 0;
    fired++;
    armed = forever;
    return 1;
}

static void
arm(long n, int for_ever)
{
    countdown = n;
    forever = for_ever;
    fired = 0;
    armed = 1;
}

static int
disarm(void)
{
    armed = 0;
    return fired;
}

/* --- libc --- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *
__wrap_malloc(size_t size)
{
    return all_threads || fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return all_threads || fails() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *old, size_t size)
{
    return all_threads || fails() ? NULL : __real_realloc(old, size);
}

/* --- CPython --- */

static PyMemAllocatorEx before[3];

static void *
hook_malloc(void *ctx, size_t size)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    return fails() ? NULL : next->malloc(next->ctx, size);
}

static void *
hook_calloc(void *ctx, size_t count, size_t size)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    return fails() ? NULL : next->calloc(next->ctx, count, size);
}

static void *
hook_realloc(void *ctx, void *old, size_t size)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    return fails() ? NULL : next->realloc(next->ctx, old, size);
}

static void
hook_free(void *ctx, void *old)
{
    PyMemAllocatorEx *next = (PyMemAllocatorEx *)ctx;
    next->free(next->ctx, old);
}

static void
install_hooks(void)
{
    static const PyMemAllocatorDomain domains[3] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    for (int i = 0; i < 3; i++) {
        PyMem_GetAllocator(domains[i], &before[i]);
        PyMemAllocatorEx hook = {&before[i], hook_malloc, hook_calloc, hook_realloc, hook_free};
        PyMem_SetAllocator(domains[i], &hook);
    }
}

/* --- the operations: each ends as it began, whether it failed or not --- */

static PyInterpreterGuard *guard;
static PyInterpreterView *view;

typedef struct {
    int done; /* the API function gave a result */
    int fired;
    int failure; /* Pep788_LastFailure() after NULL */
} Outcome;

static Outcome
outcome(int done)
{
    Outcome result = {done, disarm(), 0};
    if (!done) {
        result.failure = (int)Pep788_LastFailure();
    }
    return result;
}

static Outcome
op_init(long n, int for_ever)
{
    arm(n, for_ever);
    return outcome(Pep788_Init() == 0);
}

static Outcome
op_guard(long n, int for_ever)
{
    arm(n, for_ever);
    PyInterpreterGuard *made = PyInterpreterGuard_FromCurrent();
    Outcome result = outcome(made != NULL);
    if (made != NULL) {
        PyInterpreterGuard_Close(made);
    }
    return result;
}

static Outcome
op_view(long n, int for_ever)
{
    arm(n, for_ever);
    PyInterpreterView *made = PyInterpreterView_FromCurrent();
    Outcome result = outcome(made != NULL);
    if (made != NULL) {
        PyInterpreterView_Close(made);
    }
    return result;
}

static Outcome
op_main_view(long n, int for_ever)
{
    arm(n, for_ever);
    PyInterpreterView *made = PyInterpreterView_FromMain();
    Outcome result = outcome(made != NULL);
    if (made != NULL) {
        PyInterpreterView_Close(made);
    }
    return result;
}

static Outcome
op_guard_from_view(long n, int for_ever)
{
    arm(n, for_ever);
    PyInterpreterGuard *made = PyInterpreterGuard_FromView(view);
    Outcome result = outcome(made != NULL);
    if (made != NULL) {
        PyInterpreterGuard_Close(made);
    }
    return result;
}

static Outcome
op_close(long n, int for_ever)
{
    PyInterpreterGuard *made = PyInterpreterGuard_FromView(view);
    assert(made != NULL);
    arm(n, for_ever);
    PyInterpreterGuard_Close(made);
    return outcome(1);
}

static Outcome
op_ensure(long n, int for_ever)
{
    arm(n, for_ever);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    Outcome result = outcome(token != NULL);
    if (token != NULL) {
        PyThreadState_Release(token);
    }
    return result;
}

static Outcome
op_ensure_view(long n, int for_ever)
{
    arm(n, for_ever);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    Outcome result = outcome(token != NULL);
    if (token != NULL) {
        PyThreadState_Release(token);
    }
    return result;
}

static Outcome
op_release(long n, int for_ever)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    assert(token != NULL);
    arm(n, for_ever);
    PyThreadState_Release(token);
    return outcome(1);
}

static PyObject *dropped;

static Outcome
op_drop(long n, int for_ever)
{
    arm(n, for_ever);
    Pep788_DropRef(view, dropped);
    return outcome(1);
}

static Outcome
op_modules(long n, int for_ever)
{
    arm(n, for_ever);
    PyObject *list = Pep788_Modules();
    Outcome result = outcome(list != NULL);
    Py_XDECREF(list);
    return result;
}

static Outcome
op_nothing(long n, int for_ever)
{
    arm(n, for_ever);
    void *volatile a = malloc(1);
    void *volatile b = PyMem_RawMalloc(1);
    Outcome result = outcome(a != NULL && b != NULL);
    free(a);
    PyMem_RawFree(b);
    return result;
}

typedef struct {
    const char *name;
    Outcome (*run)(long, int);
} Operation;

static const Operation operations[] = {
    {"init", op_init}, {"guard", op_guard}, {"view", op_view}, {"main_view", op_main_view},
    {"guard_from_view", op_guard_from_view}, {"close", op_close}, {"ensure", op_ensure},
    {"ensure_view", op_ensure_view}, {"release", op_release}, {"drop", op_drop}, {"modules", op_modules},
    {"nothing", op_nothing},
};

static const Operation *
find(const char *name)
{
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        if (strcmp(operations[i].name, name) == 0) {
            return &operations[i];
        }
    }
    PyErr_Format(PyExc_ValueError, "no such operation: %s", name);
    return NULL;
}

/* (result?, allocations that failed, reason, name of the exception or None) */
static PyObject *
describe(Outcome result)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *name = type ? PyObject_GetAttrString(type, "__name__") : Py_BuildValue("");
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return Py_BuildValue("iiiN", result.done, result.fired, result.failure, name);
}

/* run(operation, n, forever), attached */
static PyObject *
run(PyObject *self, PyObject *args)
{
    const char *name;
    long n;
    int for_ever;
    if (!PyArg_ParseTuple(args, "slp", &name, &n, &for_ever)) {
        return NULL;
    }
    const Operation *operation = find(name);
    if (operation == NULL) {
        return NULL;
    }
    PyThreadState *state = PyThreadState_Get();
    Outcome result = operation->run(n, for_ever);
    assert(PyThreadState_Get() == state);
    return describe(result);
}

typedef struct {
    const Operation *operation;
    long n;
    int for_ever;
    Outcome result;
    int left_behind;
} Foreign;

static void *
foreign_thread(void *arg)
{
    Foreign *foreign = (Foreign *)arg;
    foreign->result = foreign->operation->run(foreign->n, foreign->for_ever);
    foreign->left_behind = PyGILState_GetThisThreadState() != NULL;
    return NULL;
}

/* run_foreign(operation, n, forever), on a native thread with no thread state, which has none afterwards */
static PyObject *
run_foreign(PyObject *self, PyObject *args)
{
    const char *name;
    Foreign foreign;
    memset(&foreign, 0, sizeof foreign);
    if (!PyArg_ParseTuple(args, "slp", &name, &foreign.n, &foreign.for_ever)) {
        return NULL;
    }
    foreign.operation = find(name);
    if (foreign.operation == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, foreign_thread, &foreign);
    assert(!failed);
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    assert(!foreign.left_behind);
    return describe(foreign.result);
}

/* set_up(): what the operations start from; with memory enough */
static PyObject *
set_up(PyObject *self, PyObject *unused)
{
    if (Pep788_Init() < 0) {
        return NULL;
    }
    guard = PyInterpreterGuard_FromCurrent();
    view = PyInterpreterView_FromCurrent();
    if (guard == NULL || view == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
tear_down(PyObject *self, PyObject *unused)
{
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(view);
    Py_RETURN_NONE;
}

static long alive;

static void
destroyed(PyObject *capsule)
{
    alive--;
}

/* give(): a new object, whose destructor needs no memory, for the next "drop" */
static PyObject *
give(PyObject *self, PyObject *unused)
{
    dropped = PyCapsule_New(&alive, NULL, destroyed);
    if (dropped == NULL) {
        return NULL;
    }
    alive++;
    Py_RETURN_NONE;
}

/* given(): how many of them are still there */
static PyObject *
given(PyObject *self, PyObject *unused)
{
    return PyLong_FromLong(alive);
}

static PyObject *
guard_count(PyObject *self, PyObject *unused)
{
    return PyLong_FromSsize_t(Pep788_GuardCount(PyInterpreterState_Get()));
}

/* starve(on): from now on libc has no memory for the header, on any thread */
static PyObject *
starve(PyObject *self, PyObject *on)
{
    all_threads = PyObject_IsTrue(on);
    Py_RETURN_NONE;
}

/* --- hold(): finalization must still wait for a guard, after whatever failed before --- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int holding, let_go, finalized, closed;

static void
at_end(void)
{
    pthread_mutex_lock(&lock);
    finalized = 1;
    int broken = holding && !closed;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (broken) {
        static const char text[] = "FINALIZED WITH A GUARD OPEN\n";
        ssize_t done = write(1, text, sizeof text - 1);
        (void)done;
        _exit(99);
    }
}

static void *
hold_thread(void *held)
{
    pthread_mutex_lock(&lock);
    while (!let_go) {
        pthread_cond_wait(&changed, &lock);
    }
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += 20000000;
    end.tv_sec += end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    while (!finalized && pthread_cond_timedwait(&changed, &lock, &end) != ETIMEDOUT) {
    }
    closed = 1;
    pthread_mutex_unlock(&lock);
    PyInterpreterGuard_Close((PyInterpreterGuard *)held);
    return NULL;
}

static PyObject *
hold(PyObject *self, PyObject *unused)
{
    PyInterpreterGuard *held = PyInterpreterGuard_FromCurrent();
    if (held == NULL) {
        return NULL;
    }
    pthread_t thread;
    holding = 1;
    int failed = pthread_create(&thread, NULL, hold_thread, held) || Py_AtExit(at_end);
    assert(!failed);
    Py_RETURN_NONE;
}

static PyObject *
release_hold(PyObject *self, PyObject *unused)
{
    pthread_mutex_lock(&lock);
    let_go = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, NULL},
    {"run_foreign", run_foreign, METH_VARARGS, NULL},
    {"set_up", set_up, METH_NOARGS, NULL},
    {"tear_down", tear_down, METH_NOARGS, NULL},
    {"give", give, METH_NOARGS, NULL},
    {"given", given, METH_NOARGS, NULL},
    {"guard_count", guard_count, METH_NOARGS, NULL},
    {"starve", starve, METH_O, NULL},
    {"hold", hold, METH_NOARGS, NULL},
    {"release_hold", release_hold, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "a_fail", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_a_fail(void)
{
    install_hooks();
    return create_module(&definition);
}
