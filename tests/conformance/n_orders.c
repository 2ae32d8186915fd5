/* N2: do the steps named by the letters of argv[1], in that order. A step that makes no sense where it stands is
   skipped, so any string is a valid program; test_N2_orders.py says what the letters mean. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

enum { MANY = 64 };

static PyThreadState *states[MANY]; /* main's first, then one of each subinterpreter */
static int depth;
static PyInterpreterGuard *guards[MANY];
static int guard_count;
static PyInterpreterView *views[MANY];
static int view_count;
static pthread_t threads[MANY];
static int thread_count;

static void
run(const char *code)
{
    int failed = PyRun_SimpleString(code);
    assert(!failed);
}

/* After the wait was given up, an interpreter that lives on gives no guards. */
static void
run_or_refused(const char *code)
{
    PyObject *globals = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject *result = PyRun_String(code, Py_file_input, globals, globals);
    if (result == NULL) {
        assert(PyErr_ExceptionMatches(PyExc_RuntimeError)); /* PythonFinalizationError's base */
        PyErr_Clear();
    }
    Py_XDECREF(result);
}

static void
keep_guard(PyInterpreterGuard *guard)
{
    if (guard == NULL) {
        PyErr_Clear(); /* refused: after the interpreter's callbacks ran */
        return;
    }
    if (guard_count < MANY) {
        guards[guard_count++] = guard;
    }
}

static PyInterpreterView *
keep_view(PyInterpreterView *view)
{
    assert(view != NULL);
    if (view_count < MANY) {
        views[view_count++] = view;
    }
    return view;
}

static void *
leak_token(void *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView((PyInterpreterView *)view);
    if (token != NULL) {
        PyRun_SimpleString("sum(range(10))");
        (void)PyEval_SaveThread();
    }
    return NULL;
}

static void *
leak_kept_token(void *view)
{
    PyThreadStateToken *token = Pep788_EnsureKept((PyInterpreterView *)view);
    if (token != NULL) {
        Pep788_ReleaseKept(token);
        token = Pep788_EnsureKept((PyInterpreterView *)view);
    }
    if (token != NULL) {
        (void)PyEval_SaveThread();
    }
    return NULL;
}

static void *
keep(void *view)
{
    PyThreadStateToken *token;
    while ((token = Pep788_EnsureKept((PyInterpreterView *)view)) != NULL) {
        PyRun_SimpleString("sum(range(10))");
        Pep788_ReleaseKept(token);
        usleep(2000);
    }
    return NULL;
}

static void *
churn(void *view)
{
    PyInterpreterGuard *guard;
    while ((guard = PyInterpreterGuard_FromView((PyInterpreterView *)view)) != NULL) {
        PyInterpreterGuard_Close(guard);
    }
    return NULL;
}

/* A guard whose interpreter is gone gives no thread state; one whose interpreter is there does. */
static void *
ensure(void *guard)
{
    PyThreadStateToken *token = PyThreadState_Ensure((PyInterpreterGuard *)guard);
    if (token != NULL) {
        assert(depth > 0);
        PyThreadState_Release(token);
    }
    else {
        Pep788_Failure why = Pep788_LastFailure();
        assert(why == PEP788_GONE || why == PEP788_FINALIZING);
    }
    return NULL;
}

static void
ensure_here_and_on_a_thread(PyInterpreterGuard *guard)
{
    pthread_t thread;
    PyThreadState *attached = depth > 0 ? PyEval_SaveThread() : NULL;
    (void)ensure(guard);
    int failed = pthread_create(&thread, NULL, ensure, guard);
    assert(!failed);
    pthread_join(thread, NULL);
    if (attached != NULL) {
        PyEval_RestoreThread(attached);
        (void)ensure(guard);
    }
}

static void
start(void *(*body)(void *), void *view)
{
    if (thread_count < MANY) {
        int failed = pthread_create(&threads[thread_count++], NULL, body, view);
        assert(!failed);
    }
}

static int leaks; /* a guard was leaked: finalization gives up, and CPython may freeze a thread that is inside then */

static void
join_all(void)
{
    while (thread_count > 0) {
        pthread_t thread = threads[--thread_count];
        if (leaks) {
            pthread_detach(thread);
        }
        else {
            pthread_join(thread, NULL);
        }
    }
}

static void
end_subinterpreter(void)
{
    Py_EndInterpreter(states[--depth]);
    PyThreadState_Swap(states[depth - 1]);
}

static void
finalize(void)
{
    while (depth > 1) {
        end_subinterpreter();
    }
    depth = 0;
    int failed = Py_FinalizeEx();
    assert(!failed);
    join_all();
}

static void
fork_here(void)
{
    PyOS_BeforeFork();
    pid_t pid = fork();
    if (pid == 0) {
        PyOS_AfterFork_Child();
        depth = 1; /* CPython has deleted the others */
        thread_count = 0;
        return;
    }
    PyOS_AfterFork_Parent();
    assert(pid > 0);
    int status;
    pid_t waited;
    Py_BEGIN_ALLOW_THREADS
    waited = waitpid(pid, &status, 0);
    Py_END_ALLOW_THREADS
    assert(waited == pid);
    if (status != 0) {
        fprintf(stderr, "child: status %d\n", status);
        _exit(3);
    }
}

/* As mod_wsgi and uWSGI do: from C, with no Python frame below. */
static void
call_atexit(const char *name)
{
    PyObject *module = PyImport_ImportModule("atexit");
    assert(module != NULL);
    PyObject *result = PyObject_CallMethod(module, name, NULL);
    assert(result != NULL);
    Py_DECREF(result);
    Py_DECREF(module);
}

static void
step_alive(char letter)
{
    PyThreadStateToken *token;
    leaks |= strchr("gptTQS", letter) != NULL;
    switch (letter) {
    case 'F': finalize(); break;
    case 'i': run("import f_probe"); break;
    case 'r': run_or_refused("import sys; sys.modules.pop('f_probe', None); import f_probe; f_probe.close(f_probe.guard())"); break;
    case 'g': keep_guard(PyInterpreterGuard_FromCurrent()); break;
    case 'p': run_or_refused("import f_probe; f_probe.guard()"); break;
    case 'c':
        keep_guard(PyInterpreterGuard_FromCurrent());
        if (guard_count > 0) {
            PyInterpreterGuard_Close(guards[--guard_count]);
        }
        break;
    case 'v': keep_view(PyInterpreterView_FromCurrent()); break;
    case 't':
        token = PyThreadState_EnsureFromView(keep_view(PyInterpreterView_FromCurrent()));
        (void)token; /* leaked */
        break;
    case 'T':
    case 'Q':
#if PY_VERSION_HEX < 0x030E0000
        if (depth > 1) {
            break; /* Py_EndInterpreter is fatal on any left thread state; test_N2 has that on its own */
        }
#endif
        /* fall through */
    case 'S':
        start(letter == 'Q' ? leak_kept_token : leak_token, keep_view(PyInterpreterView_FromCurrent()));
        Py_BEGIN_ALLOW_THREADS
        pthread_join(threads[--thread_count], NULL);
        Py_END_ALLOW_THREADS
        break;
    case 'q': start(keep, keep_view(PyInterpreterView_FromCurrent())); break;
    case 'H': start(churn, keep_view(PyInterpreterView_FromCurrent())); break;
    case 's':
        if (depth < 4) {
            states[depth] = Py_NewInterpreter();
            assert(states[depth] != NULL);
            depth++;
        }
        break;
    case 'e':
        if (depth > 1) {
            end_subinterpreter();
        }
        break;
    case 'f':
        if (depth == 1) {
            fork_here();
        }
        break;
    case 'C': {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        assert(guard != NULL);
        PyInterpreterGuard_Close(guard);
        break;
    }
    case 'h': run("import threading"); break;
    case 'X': call_atexit("_run_exitfuncs"); break;
    case 'K': call_atexit("_clear"); break;
    case 'x': run("import atexit; atexit._run_exitfuncs()"); break;
    case 'k': run("import atexit; atexit._clear()"); break;
    case 'N': {
        int failed = Pep788_Init();
        if (failed) {
            PyErr_Clear();
        }
        break;
    }
    default: break;
    }
}

static void
step(char letter)
{
    PyInterpreterGuard *guard;
    if (letter == 'm') {
        keep_view(PyInterpreterView_FromMain());
    }
    else if (letter == 'V') {
        for (int i = 0; i < view_count; i++) {
            if ((guard = PyInterpreterGuard_FromView(views[i])) != NULL) {
                PyInterpreterGuard_Close(guard);
            }
        }
    }
    else if (letter == 'G') {
        if (guard_count > 0) {
            PyInterpreterGuard_Close(guards[--guard_count]);
        }
    }
    else if (letter == 'E') {
        for (int i = 0; i < guard_count; i++) {
            ensure_here_and_on_a_thread(guards[i]);
        }
    }
    else if (letter == 'W') {
        if (view_count > 0 && thread_count == 0) {
            PyInterpreterView_Close(views[--view_count]);
        }
    }
    else if (depth > 0) {
        step_alive(letter);
    }
    else if (letter == 'I') {
        Py_InitializeEx(0);
        states[depth++] = PyThreadState_Get();
    }
}

int
main(int argc, char **argv)
{
    assert(argc == 2);
    for (const char *letter = argv[1]; *letter != '\0'; letter++) {
        step(*letter);
    }
    if (depth > 0) {
        finalize();
    }
    printf("done\n");
    return 0;
}
