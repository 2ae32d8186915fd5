/* The API as a Python module, and native threads that follow a script of API calls.

   One source, many modules: -DMODULE=name gives each its own copy of the header (F2). Stays inside the limited
   API of 3.9, so that the same source is the abi3 module of F7. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif
#ifndef MODULE
#  define MODULE f_probe
#endif
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

typedef unsigned long long handle;

static void *
pointer(handle value)
{
    return (void *)(uintptr_t)value;
}

static handle
number(const void *p)
{
    return (handle)(uintptr_t)p;
}

static void
say(const char *text)
{
    ssize_t done = write(1, text, strlen(text));
    (void)done; /* the reader may be gone: nobody is left to tell */
}

/* --- events, and the mark that finalization has gone past its point of no return --- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int events[64];
static int finalized;
static int lingering;

/* glibc's condition variables count their waiters: in a child they would wait for threads that are not there. */
static void
forked(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&changed, NULL);
    lingering = 0;
}

static void
event_set(int n)
{
    pthread_mutex_lock(&lock);
    events[n] = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void
event_wait(int n)
{
    pthread_mutex_lock(&lock);
    while (!events[n]) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static void
mark_finalized(void)
{
    pthread_mutex_lock(&lock);
    finalized = 1;
    int broken = lingering;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (broken) {
        say("FINALIZED WITH A GUARD OPEN\n");
        _exit(99);
    }
}

/* The caller holds a guard: give finalization every chance to go wrong before it is closed. A wait that is only
   cut short by a failure cannot make a correct implementation fail. */
static int
linger(long milliseconds)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += (milliseconds % 1000) * 1000000L;
    end.tv_sec += milliseconds / 1000 + end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&lock);
    lingering++;
    int status = 0;
    while (!finalized && status != ETIMEDOUT) {
        status = pthread_cond_timedwait(&changed, &lock, &end);
    }
    lingering--;
    int passed = finalized;
    pthread_mutex_unlock(&lock);
    return passed;
}

/* --- the functions of this copy, for loops that alternate between two copies on one thread --- */

typedef struct {
    PyInterpreterGuard *(*from_view)(PyInterpreterView *);
    void (*close)(PyInterpreterGuard *);
} Api;

static Api own_api;

/* Take and close through both copies until refused. 1: from the first refusal on, both refuse for ever. */
static handle
churn_pair(PyInterpreterView *view, const Api *other)
{
    const Api *both[2] = {&own_api, other};
    for (unsigned round = 0;; round++) {
        const Api *api = both[round & 1];
        PyInterpreterGuard *guard = api->from_view(view);
        if (guard == NULL) {
            break;
        }
        api->close(guard);
    }
    for (unsigned round = 0; round < 2000; round++) {
        if (both[round & 1]->from_view(view) != NULL) {
            return 0;
        }
    }
    return 1;
}

static handle
churn(PyInterpreterView *view, int overlapping)
{
    handle rounds = 0;
    PyInterpreterGuard *held = NULL;
    for (;;) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        if (guard == NULL) {
            break;
        }
        rounds++;
        if (!overlapping) {
            PyInterpreterGuard_Close(guard);
            continue;
        }
        if (held != NULL) {
            PyInterpreterGuard_Close(held);
        }
        held = guard;
    }
    if (held != NULL) {
        PyInterpreterGuard_Close(held);
    }
    return rounds;
}

static handle
call(PyObject *callable)
{
    PyObject *result = PyObject_CallObject(callable, NULL);
    if (result == NULL) {
        PyErr_Print();
        return 0;
    }
    int truth = PyObject_IsTrue(result);
    Py_DECREF(result);
    return truth > 0;
}

/* Attach and detach `most` times or until refused (0: only that); how often it went well. */
static handle
churn_kept(PyInterpreterView *view, handle most)
{
    handle rounds = 0;
    PyThreadStateToken *token;
    while ((most == 0 || rounds < most) && (token = Pep788_EnsureKept(view)) != NULL) {
        Pep788_ReleaseKept(token);
        rounds++;
    }
    return rounds;
}

/* A fork that CPython hears nothing of (bare), or that does what its documentation asks of C code. */
static pid_t
fork_from_C(int bare)
{
    if (bare) {
        return fork();
    }
    PyOS_BeforeFork();
    pid_t pid = fork();
    if (pid == 0) {
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    return pid;
}

/* --- native threads that follow a script --- */

typedef struct {
    const char *name;
    const char *kinds; /* h: handle or register, o: object, s: text */
} Op;

enum { GUARD_FROM_VIEW, GUARD_FROM_CURRENT, CLOSE, VIEW_FROM_MAIN, VIEW_FROM_CURRENT, VIEW_CLOSE, ENSURE, ENSURE_VIEW,
       RELEASE, FAILURE, CALL, DROP, WAIT, SET, LINGER, WRITE, REPORT, CHURN, CHAIN, CHURN_PAIR, KILL, DETACH, ATTACH,
       ENSURE_KEPT, RELEASE_KEPT, CHURN_KEPT, CALL_AT, STATE, BOUND, GIL_ENSURE, GIL_RELEASE, FORK, OPS };

static const Op ops[OPS] = {
    {"guard_from_view", "h"}, {"guard_from_current", ""}, {"close", "h"}, {"view_from_main", ""},
    {"view_from_current", ""}, {"view_close", "h"}, {"ensure", "h"}, {"ensure_view", "h"}, {"release", "h"},
    {"failure", ""}, {"call", "o"}, {"drop", "ho"}, {"wait", "h"}, {"set", "h"}, {"linger", "h"}, {"write", "s"},
    {"report", "sh"}, {"churn", "h"}, {"chain", "h"}, {"churn_pair", "hh"}, {"kill", "h"}, {"detach", ""},
    {"attach", "h"}, {"ensure_kept", "h"}, {"release_kept", "h"}, {"churn_kept", "hh"}, {"call_at", "h"}, {"state", ""}, {"bound", ""},
    {"gil_ensure", ""}, {"gil_release", "h"}, {"fork", "h"},
};

typedef struct {
    int op;
    handle value[2];
    int from_register[2];
} Step;

typedef struct {
    pthread_t thread;
    Step *steps;
    handle *registers;
    int count;
    int done;
} Script;

static handle
perform(const Step *step, handle a, handle b)
{
    char line[200];
    if (a == 0 && (step->op == CLOSE || step->op == ENSURE || step->op == RELEASE
                   || step->op == RELEASE_KEPT)) {
        return 0; /* the step that should have made it was refused */
    }
    switch (step->op) {
    case GUARD_FROM_VIEW: return number(PyInterpreterGuard_FromView((PyInterpreterView *)pointer(a)));
    case GUARD_FROM_CURRENT: return number(PyInterpreterGuard_FromCurrent());
    case CLOSE: PyInterpreterGuard_Close((PyInterpreterGuard *)pointer(a)); return 0;
    case VIEW_FROM_MAIN: return number(PyInterpreterView_FromMain());
    case VIEW_FROM_CURRENT: return number(PyInterpreterView_FromCurrent());
    case VIEW_CLOSE: PyInterpreterView_Close((PyInterpreterView *)pointer(a)); return 0;
    case ENSURE: return number(PyThreadState_Ensure((PyInterpreterGuard *)pointer(a)));
    case ENSURE_VIEW: return number(PyThreadState_EnsureFromView((PyInterpreterView *)pointer(a)));
    case RELEASE: PyThreadState_Release((PyThreadStateToken *)pointer(a)); return 0;
    case FAILURE: return (handle)Pep788_LastFailure();
    case CALL: return call((PyObject *)pointer(a));
    case DROP: Pep788_DropRef((PyInterpreterView *)pointer(a), (PyObject *)pointer(b)); return 0;
    case WAIT: event_wait((int)a); return 0;
    case SET: event_set((int)a); return 0;
    case LINGER: return (handle)linger((long)a);
    case WRITE: say((const char *)pointer(a)); return 0;
    case REPORT:
        snprintf(line, sizeof line, "%s=%llu\n", (const char *)pointer(a), b);
        say(line);
        return b;
    case CHURN: return churn((PyInterpreterView *)pointer(a), 0);
    case CHAIN: return churn((PyInterpreterView *)pointer(a), 1);
    case CHURN_PAIR: return churn_pair((PyInterpreterView *)pointer(a), (const Api *)pointer(b));
    case KILL: return (handle)kill(getpid(), (int)a);
    case DETACH: return number(PyEval_SaveThread());
    case ATTACH: PyEval_RestoreThread((PyThreadState *)pointer(a)); return 0;
    case ENSURE_KEPT: return number(Pep788_EnsureKept((PyInterpreterView *)pointer(a)));
    case RELEASE_KEPT: Pep788_ReleaseKept((PyThreadStateToken *)pointer(a)); return 0;
    case CHURN_KEPT: return churn_kept((PyInterpreterView *)pointer(a), b);
    case CALL_AT: return call((PyObject *)pointer(a)); /* of another interpreter, by its id() */
    case STATE: return number(PyThreadState_Get());
    case BOUND: return number(PyGILState_GetThisThreadState());
    case GIL_ENSURE: return (handle)PyGILState_Ensure();
    case GIL_RELEASE: PyGILState_Release((PyGILState_STATE)a); return 0;
    case FORK: return (handle)fork_from_C((int)a);
    default: abort();
    }
}

static void *
follow(void *arg)
{
    Script *script = (Script *)arg;
    for (int i = 0; i < script->count; i++) {
        const Step *step = &script->steps[i];
        handle value[2];
        for (int k = 0; k < 2; k++) {
            value[k] = step->from_register[k] ? script->registers[step->value[k]] : step->value[k];
        }
        script->registers[i] = perform(step, value[0], value[1]);
    }
    pthread_mutex_lock(&lock);
    script->done = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* "rN" is the result of step N; objects and texts stay referenced for ever, so that late threads may use them. */
static int
parse_argument(char kind, PyObject *value, Step *step, int k)
{
    if (kind == 'o') {
        Py_INCREF(value);
        step->value[k] = number(value);
        return 0;
    }
    if (!PyUnicode_Check(value)) {
        step->value[k] = PyLong_AsUnsignedLongLong(value);
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *bytes = PyUnicode_AsUTF8String(value);
    if (bytes == NULL) {
        return -1;
    }
    const char *text = PyBytes_AsString(bytes);
    if (kind == 's') {
        step->value[k] = number(text);
        return 0;
    }
    step->from_register[k] = 1;
    step->value[k] = strtoull(text + 1, NULL, 10);
    Py_DECREF(bytes);
    return 0;
}

static int
parse_step(PyObject *tuple, Step *step)
{
    const char *name;
    PyObject *args[2] = {NULL, NULL};
    if (!PyArg_ParseTuple(tuple, "s|OO:step", &name, &args[0], &args[1])) {
        return -1;
    }
    for (step->op = 0; step->op < OPS && strcmp(ops[step->op].name, name) != 0; step->op++) {
    }
    if (step->op == OPS) {
        PyErr_Format(PyExc_ValueError, "no such step: %s", name);
        return -1;
    }
    const char *kinds = ops[step->op].kinds;
    for (int k = 0; k < (int)strlen(kinds); k++) {
        if (args[k] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s needs %d arguments", name, (int)strlen(kinds));
            return -1;
        }
        if (parse_argument(kinds[k], args[k], step, k) < 0) {
            return -1;
        }
    }
    return 0;
}

/* thread(step, step, ...) -> script; a step is (name, arguments...) */
static PyObject *
py_thread(PyObject *self, PyObject *steps)
{
    Py_ssize_t count = PyTuple_Size(steps);
    Script *script = (Script *)calloc(1, sizeof(Script));
    assert(script != NULL);
    script->steps = (Step *)calloc((size_t)count + 1, sizeof(Step));
    script->registers = (handle *)calloc((size_t)count + 1, sizeof(handle));
    assert(script->steps != NULL && script->registers != NULL);
    script->count = (int)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (parse_step(PyTuple_GetItem(steps, i), &script->steps[i]) < 0) {
            return NULL;
        }
    }
    int failed = pthread_create(&script->thread, NULL, follow, script);
    assert(!failed);
    return PyLong_FromUnsignedLongLong(number(script));
}

/* join(script) -> results of all steps */
static PyObject *
py_join(PyObject *self, PyObject *args)
{
    handle value;
    if (!PyArg_ParseTuple(args, "K", &value)) {
        return NULL;
    }
    Script *script = (Script *)pointer(value);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(script->thread, NULL);
    Py_END_ALLOW_THREADS
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < script->count; i++) {
        PyObject *item = PyLong_FromUnsignedLongLong(script->registers[i]);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

/* --- the API, attached --- */

static PyObject *
result_of(const void *p)
{
    if (p == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(number(p));
}

#define HANDLE_FUNCTION(name, body)                     \
    static PyObject *                                   \
    py_##name(PyObject *self, PyObject *args)           \
    {                                                   \
        handle h = 0;                                   \
        if (!PyArg_ParseTuple(args, "|K", &h)) {        \
            return NULL;                                \
        }                                               \
        body                                            \
    }

HANDLE_FUNCTION(guard, return result_of(PyInterpreterGuard_FromCurrent());)
HANDLE_FUNCTION(view, return result_of(PyInterpreterView_FromCurrent());)
HANDLE_FUNCTION(main_view, return result_of(PyInterpreterView_FromMain());)
HANDLE_FUNCTION(guard_from_view, return result_of(PyInterpreterGuard_FromView((PyInterpreterView *)pointer(h)));)
HANDLE_FUNCTION(close, PyInterpreterGuard_Close((PyInterpreterGuard *)pointer(h)); Py_RETURN_NONE;)
HANDLE_FUNCTION(view_close, PyInterpreterView_Close((PyInterpreterView *)pointer(h)); Py_RETURN_NONE;)
HANDLE_FUNCTION(ensure, return result_of(PyThreadState_Ensure((PyInterpreterGuard *)pointer(h)));)
HANDLE_FUNCTION(ensure_view, return result_of(PyThreadState_EnsureFromView((PyInterpreterView *)pointer(h)));)
HANDLE_FUNCTION(ensure_kept, return result_of(Pep788_EnsureKept((PyInterpreterView *)pointer(h)));)
HANDLE_FUNCTION(release_kept, Pep788_ReleaseKept((PyThreadStateToken *)pointer(h)); Py_RETURN_NONE;)
HANDLE_FUNCTION(release, PyThreadState_Release((PyThreadStateToken *)pointer(h)); Py_RETURN_NONE;)
HANDLE_FUNCTION(last_failure, return PyLong_FromLong((long)Pep788_LastFailure());)
HANDLE_FUNCTION(failure_name, return PyUnicode_FromString(Pep788_FailureName((Pep788_Failure)h));)
HANDLE_FUNCTION(guard_count, return PyLong_FromSsize_t(Pep788_GuardCount(PyInterpreterState_Get()));)
HANDLE_FUNCTION(modules, return Pep788_Modules();)
HANDLE_FUNCTION(api, return PyLong_FromUnsignedLongLong(number(&own_api));)
HANDLE_FUNCTION(set, event_set((int)h); Py_RETURN_NONE;)
HANDLE_FUNCTION(mark_finalized, mark_finalized(); Py_RETURN_NONE;)
HANDLE_FUNCTION(guards_this, return PyBool_FromLong(
    Pep788_GuardInterpreter((PyInterpreterGuard *)pointer(h)) == PyInterpreterState_Get());)
HANDLE_FUNCTION(exit, Py_Exit((int)h); Py_RETURN_NONE;)

/* nested_gilstate(view): from a detached state of this thread, PyGILState_Ensure inside EnsureFromView */
static PyObject *
py_nested_gilstate(PyObject *self, PyObject *args)
{
    handle view;
    if (!PyArg_ParseTuple(args, "K", &view)) {
        return NULL;
    }
    PyThreadState *before = PyEval_SaveThread();
    PyThreadStateToken *token = PyThreadState_EnsureFromView((PyInterpreterView *)pointer(view));
    if (token != NULL) {
        PyThreadState *attached = PyThreadState_Get();
        PyGILState_STATE state = PyGILState_Ensure();
        assert(PyThreadState_Get() == attached);
        PyGILState_Release(state);
        PyThreadState_Release(token);
    }
    PyEval_RestoreThread(before);
    return PyBool_FromLong(token != NULL);
}

static PyObject *
py_wait(PyObject *self, PyObject *args)
{
    int n;
    if (!PyArg_ParseTuple(args, "i", &n)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    event_wait(n);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
py_drop(PyObject *self, PyObject *args)
{
    handle view;
    PyObject *object;
    if (!PyArg_ParseTuple(args, "KO", &view, &object)) {
        return NULL;
    }
    Py_INCREF(object);
    Pep788_DropRef((PyInterpreterView *)pointer(view), object);
    Py_RETURN_NONE;
}

static PyObject *
py_fork(PyObject *self, PyObject *args)
{
    int bare;
    if (!PyArg_ParseTuple(args, "p", &bare)) {
        return NULL;
    }
    return PyLong_FromLong((long)fork_from_C(bare));
}

/* --- kept_threads(view, count, calls): that many threads, one after the other, each of which attaches so often --- */

typedef struct {
    PyInterpreterView *view;
    handle calls;
} Short;

static void *
short_thread(void *arg)
{
    Short *what = (Short *)arg;
    handle done = churn_kept(what->view, what->calls);
    assert(done == what->calls);
    return NULL;
}

static PyObject *
py_kept_threads(PyObject *self, PyObject *args)
{
    handle view;
    int count;
    Short what;
    if (!PyArg_ParseTuple(args, "KiK", &view, &count, &what.calls)) {
        return NULL;
    }
    what.view = (PyInterpreterView *)pointer(view);
    Py_BEGIN_ALLOW_THREADS
    while (count-- > 0) {
        pthread_t thread;
        int failed = pthread_create(&thread, NULL, short_thread, &what);
        assert(!failed);
        pthread_join(thread, NULL);
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* --- tee_stderr(text, count, event): sets the event when stderr has shown the text that often --- */

static struct {
    int in, out, event, wanted;
    char text[100];
    pthread_t thread;
} tee;

static void *
tee_run(void *unused)
{
    static char seen[1 << 16];
    size_t length = 0;
    ssize_t got;
    while (length < sizeof seen - 1 && (got = read(tee.in, seen + length, sizeof seen - 1 - length)) > 0) {
        ssize_t passed = write(tee.out, seen + length, (size_t)got);
        (void)passed;
        length += (size_t)got;
        seen[length] = '\0';
        int count = 0;
        for (const char *at = seen; (at = strstr(at, tee.text)) != NULL; at++) {
            count++;
        }
        if (count >= tee.wanted) {
            event_set(tee.event);
        }
    }
    return NULL;
}

static void
tee_end(void)
{
    dup2(tee.out, 2); /* closes the last write end: the thread comes to the end of the pipe */
    pthread_join(tee.thread, NULL);
}

static PyObject *
py_tee_stderr(PyObject *self, PyObject *args)
{
    const char *text;
    int ends[2];
    if (!PyArg_ParseTuple(args, "sii", &text, &tee.wanted, &tee.event)) {
        return NULL;
    }
    snprintf(tee.text, sizeof tee.text, "%s", text);
    tee.out = dup(2);
    int failed = pipe(ends);
    assert(!failed);
    tee.in = ends[0];
    dup2(ends[1], 2);
    close(ends[1]);
    failed = pthread_create(&tee.thread, NULL, tee_run, NULL);
    assert(!failed);
    atexit(tee_end);
    Py_RETURN_NONE;
}

#define METHOD(name) {#name, py_##name, METH_VARARGS, NULL}
static PyMethodDef methods[] = {
    METHOD(thread), METHOD(join), METHOD(guard), METHOD(view), METHOD(main_view), METHOD(guard_from_view),
    METHOD(close), METHOD(view_close), METHOD(ensure), METHOD(ensure_view), METHOD(release), METHOD(last_failure),
    METHOD(failure_name), METHOD(guard_count), METHOD(modules), METHOD(api), METHOD(set), METHOD(wait),
    METHOD(mark_finalized), METHOD(guards_this), METHOD(exit), METHOD(drop), METHOD(fork), METHOD(tee_stderr),
    METHOD(nested_gilstate),
    METHOD(kept_threads), METHOD(ensure_kept), METHOD(release_kept),
    {NULL, NULL, 0, NULL},
};

static int
exec_module(PyObject *module)
{
    static atomic_int registered, watching;
    if (Pep788_Init() < 0) {
        return -1;
    }
    own_api = (Api){PyInterpreterGuard_FromView, PyInterpreterGuard_Close};
    if (!atomic_exchange(&registered, 1) && Py_AtExit(mark_finalized) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "no slot left in Py_AtExit");
        return -1;
    }
    if (!atomic_exchange(&watching, 1)) {
        pthread_atfork(NULL, NULL, forked);
    }
    if (PyModule_AddStringConstant(module, "version", PEP788_VERSION) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "native", PEP788_NATIVE);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
#ifdef Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_MOD_GIL_NOT_USED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, TEXT(MODULE), NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC
JOIN(PyInit_, MODULE)(void)
{
    return PyModuleDef_Init(&definition);
}
