/* Threads that follow scripts of API calls: as the extension module `probe`, and with -DPROGRAM as a program that
   embeds Python. A script has one operation a line; see the table `operations`. Slots (guards, views, tokens, thread
   states, objects) and events have names and are shared by the whole process. What must not happen ends the process
   with status 97 and the script line. Events are logged by single writes to fd 1, so their order is the real one. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

typedef struct {
    char **lines;
    int count;
} Script;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    char name[24];
    void *value;
    int happened;
} table[512];
static int used;
static _Thread_local const char *current_line = "(none)";

static void
say(int fd, const char *text)
{
    char line[1024];
    int size = snprintf(line, sizeof(line), "%s\n", text);
    ssize_t done = write(fd, line, size < (int)sizeof(line) ? (size_t)size : sizeof(line) - 1);
    (void)done; /* the reader may be gone: nobody is left to tell */
}

static void
fail(const char *why)
{
    char text[900];
    snprintf(text, sizeof(text), "probe failed: %s (at: %s)", why, current_line);
    say(2, text);
    _exit(97);
}

/* --- slots and events --- */

static int
find(const char *name) /* with `lock` */
{
    for (int i = 0; i < used; i++) {
        if (strcmp(table[i].name, name) == 0) {
            return i;
        }
    }
    if (used == (int)(sizeof(table) / sizeof(table[0])) || strlen(name) >= sizeof(table[0].name)) {
        fail("no room for a name");
    }
    strcpy(table[used].name, name);
    return used++;
}

static void *
get(const char *name)
{
    pthread_mutex_lock(&lock);
    void *value = table[find(name)].value;
    pthread_mutex_unlock(&lock);
    return value;
}

static void
put(const char *name, void *value)
{
    pthread_mutex_lock(&lock);
    table[find(name)].value = value;
    pthread_mutex_unlock(&lock);
}

static void
event(const char *name, int happened)
{
    pthread_mutex_lock(&lock);
    table[find(name)].happened = happened;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static int
has_happened(const char *name)
{
    pthread_mutex_lock(&lock);
    int happened = table[find(name)].happened;
    pthread_mutex_unlock(&lock);
    return happened;
}

/* Whether it happened within that time; ms < 0 waits for ever. */
static int
happens_within(const char *name, long ms)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += (ms % 1000) * 1000000L;
    end.tv_sec += ms / 1000 + end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&lock);
    int slot = find(name), status = 0;
    while (!table[slot].happened && status != ETIMEDOUT) {
        status = ms < 0 ? pthread_cond_wait(&changed, &lock) : pthread_cond_timedwait(&changed, &lock, &end);
    }
    int happened = table[slot].happened;
    pthread_mutex_unlock(&lock);
    return happened;
}

static void op_set(char **a) { event(a[0], 1); }
static void op_clear(char **a) { event(a[0], 0); }
static void op_await(char **a) { happens_within(a[0], -1); }
static void op_log(char **a) { say(1, a[0]); }
static void op_copy(char **a) { put(a[0], get(a[1])); }
static void op_yield(char **a) { (void)a; sched_yield(); }

/* A correct implementation cannot let it happen, however long this takes; a wrong one gets its chance. */
static void
op_never(char **a)
{
    if (happens_within(a[0], atol(a[1]))) {
        fail("happened although a guard is open");
    }
}

/* For the negative proofs: whoever is hung is given up after a while. */
static void
op_await_up_to(char **a)
{
    happens_within(a[0], atol(a[1]));
}

/* The main thread has gone to sleep and stays so: it waits for guards, if that is all it has left to do. */
static void
op_until_main_sleeps(char **a)
{
    (void)a;
#ifdef __linux__
    for (int asleep = 0; asleep < 20 && !has_happened("finalized");) {
        char text[512] = "";
        FILE *file = fopen("/proc/self/stat", "r");
        size_t size = fread(text, 1, sizeof(text) - 1, file);
        fclose(file);
        text[size] = '\0';
        char *name_end = strrchr(text, ')');
        asleep = name_end != NULL && name_end[2] == 'S' ? asleep + 1 : 0;
        nanosleep(&(struct timespec){0, 1000000}, NULL); /* the interval of the samples */
    }
#else
    happens_within("finalized", 300);
#endif
}

/* --- comparisons --- */

static void op_same(char **a) { if (get(a[0]) != get(a[1])) fail("not the same"); }
static void op_differ(char **a) { if (get(a[0]) == get(a[1])) fail("the same"); }
static void op_null(char **a) { if (get(a[0]) != NULL) fail("not NULL"); }
static void op_some(char **a) { if (get(a[0]) == NULL) fail("NULL"); }

static void
op_no_error(char **a)
{
    (void)a;
    if (PyErr_Occurred()) {
        PyErr_Print();
        fail("an exception is set");
    }
}

static PyThreadState *
unchecked(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/* Process-wide before 3.12: there, only the thread state bound to this thread can be told. */
static void
op_detached(char **a)
{
    (void)a;
    PyThreadState *now = unchecked();
    if (now != NULL && (PY_VERSION_HEX >= 0x030C0000 || now == PyGILState_GetThisThreadState())) {
        fail("a thread state is attached");
    }
}

/* --- the API --- */

static void op_guard(char **a) { put(a[0], PyInterpreterGuard_FromView(get(a[1]))); }
static void op_view_main(char **a) { put(a[0], PyInterpreterView_FromMain()); op_some(a); }
static void op_close_view(char **a) { PyInterpreterView_Close(get(a[0])); }
static void op_ensure(char **a) { put(a[0], PyThreadState_Ensure(get(a[1]))); }
static void op_ensure_view(char **a) { put(a[0], PyThreadState_EnsureFromView(get(a[1]))); }
static void op_release(char **a) { PyThreadState_Release(get(a[0])); }

static void
op_guard_current(char **a)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        PyErr_Print();
        fail("no guard");
    }
    put(a[0], guard);
}

static void
op_view_current(char **a)
{
    put(a[0], PyInterpreterView_FromCurrent());
    op_some(a);
}

static void
op_close(char **a)
{
    PyInterpreterGuard_Close(get(a[0]));
}

/* --- the rest of the C API --- */

static void op_current(char **a) { put(a[0], PyThreadState_Get()); }
static void op_this(char **a) { put(a[0], PyGILState_GetThisThreadState()); }
static void op_interp(char **a) { put(a[0], PyInterpreterState_Get()); }
static void op_save(char **a) { put(a[0], PyEval_SaveThread()); }
static void op_restore(char **a) { PyEval_RestoreThread(get(a[0])); }
static void op_gil_ensure(char **a) { put(a[0], (void *)(intptr_t)(PyGILState_Ensure() + 1)); }
static void op_gil_release(char **a) { PyGILState_Release((PyGILState_STATE)((intptr_t)get(a[0]) - 1)); }
static void op_new_state(char **a) { put(a[0], PyThreadState_New(get(a[1]))); }
static void op_kill_sigint(char **a) { (void)a; kill(getpid(), SIGINT); }
/* On this thread, so that it has been delivered when this returns; Python has not seen it yet. */
static void op_raise_signal(char **a) { raise(atoi(a[0])); }
static void op_kill_sigusr1(char **a) { (void)a; kill(getpid(), SIGUSR1); }
static void op_py_exit(char **a) { Py_Exit(atoi(a[0])); }

static void
op_delete_current(char **a)
{
    (void)a;
    PyThreadState_Clear(PyThreadState_Get());
    PyThreadState_DeleteCurrent();
}

static void
op_run(char **a)
{
    char code[2000];
    size_t size = 0;
    for (const char *c = a[0]; *c && size < sizeof(code) - 1; c++) {
        int newline = c[0] == '\\' && c[1] == 'n';
        code[size++] = newline ? '\n' : *c;
        c += newline;
    }
    code[size] = '\0';
    if (PyRun_SimpleString(code) < 0) {
        fail("Python code failed");
    }
}

static void
op_call(char **a)
{
    PyObject *result = PyObject_CallObject(get(a[0]), NULL);
    if (result == NULL) {
        PyErr_Print();
        fail("call failed");
    }
    Py_DECREF(result);
}

static void op_raise(char **a) { (void)a; PyErr_SetString(PyExc_LookupError, "set by the script"); }

static void
op_caught(char **a)
{
    (void)a;
    if (!PyErr_ExceptionMatches(PyExc_LookupError)) {
        fail("another exception, or none");
    }
    PyErr_Clear();
}

static int
say_pending(void *text)
{
    say(1, text);
    free(text);
    return 0;
}

static void
op_pending(char **a)
{
    if (Py_AddPendingCall(say_pending, strdup(a[0])) < 0) {
        fail("no room for a pending call");
    }
}

/* --- races: a guard that was given holds until it is closed --- */

static void
hold(const char *ended, PyInterpreterGuard *guard)
{
    for (int i = 0; i < 5; i++) {
        sched_yield();
        if (has_happened(ended)) {
            fail("interpreter ended although a guard was given");
        }
    }
    if (guard != NULL) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        if (token == NULL) {
            fail("the guard does not let this thread attach");
        }
        Py_XDECREF(PyList_New(3));
        PyThreadState_Release(token);
    }
    if (has_happened(ended)) {
        fail("interpreter ended although a guard was given");
    }
}

static int given, refused; /* with `lock` */

static int
tally(int success)
{
    pthread_mutex_lock(&lock);
    given += success;
    refused += !success;
    pthread_mutex_unlock(&lock);
    if (success) {
        event("given", 1);
    }
    return success;
}

static void
op_log_tally(char **a)
{
    (void)a;
    char text[80];
    snprintf(text, sizeof(text), "given %d refused %d", given, refused);
    say(1, text);
}

/* race VIEW ENDED TIMES: try to take a guard, up to the first refusal; each success is the event "given". */
static void
op_race(char **a)
{
    PyInterpreterView *view = get(a[0]);
    for (long left = atol(a[2]); left > 0; left--) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        if (!tally(guard != NULL)) {
            break;
        }
        hold(a[1], guard);
        PyInterpreterGuard_Close(guard);
        sched_yield();
    }
}

static void
op_race_ensure(char **a)
{
    PyInterpreterView *view = get(a[0]);
    for (long left = atol(a[2]); left > 0; left--) {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        if (!tally(token != NULL)) {
            break;
        }
        hold(a[1], NULL);
        PyThreadState_Release(token);
        sched_yield();
    }
}

/* race_start VIEW ENDED TIMES: as race, but with the beginning: refusals come first. */
static void
op_race_start(char **a)
{
    long left = atol(a[2]);
    while (left > 0 && !has_happened(a[1])) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(get(a[0]));
        if (tally(guard != NULL)) {
            hold(a[1], guard);
            PyInterpreterGuard_Close(guard);
            left--;
        }
        sched_yield();
    }
}

/* refused VIEW TIMES: only refusals are expected any more. */
static void
op_refused(char **a)
{
    for (long left = atol(a[1]); left > 0; left--) {
        if (PyInterpreterGuard_FromView(get(a[0])) != NULL) {
            fail("a guard was given after a refusal");
        }
        if (PyThreadState_EnsureFromView(get(a[0])) != NULL) {
            fail("attached after a refusal");
        }
    }
}

/* --- interpreters, for the program --- */

static void
op_init_bare(char **a)
{
    (void)a;
    Py_InitializeEx(1);
}

static void
op_init(char **a)
{
    op_init_bare(a);
    PyObject *module = PyImport_ImportModule("probe");
    if (module == NULL) {
        PyErr_Print();
        fail("no module probe");
    }
    Py_DECREF(module);
}

static void
op_finalize(char **a)
{
    (void)a;
    if (Py_FinalizeEx() < 0) {
        fail("Py_FinalizeEx() failed");
    }
    event("finalized", 1);
}

static void
import_probe(void)
{
    if (PyRun_SimpleString("import probe") < 0) {
        fail("no module probe in the subinterpreter");
    }
}

/* new_interp STATE: leaves it attached. */
static void
op_new_interp(char **a)
{
    put(a[0], Py_NewInterpreter());
    op_some(a);
    import_probe();
}

static void
op_new_own_gil(char **a)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyInterpreterConfig config = {
        .use_main_obmalloc = 0,
        .allow_fork = 0,
        .allow_exec = 0,
        .allow_threads = 1,
        .allow_daemon_threads = 1,
        .check_multi_interp_extensions = 1,
        .gil = PyInterpreterConfig_OWN_GIL,
    };
    PyThreadState *state = NULL;
    PyStatus status = Py_NewInterpreterFromConfig(&state, &config);
    if (PyStatus_Exception(status)) {
        fail(status.err_msg);
    }
    put(a[0], state);
    import_probe();
#else
    (void)a;
    fail("no own GIL before 3.12");
#endif
}

/* end_interp BACK: end the attached one and attach BACK. Swap is right on all versions: up to 3.11 the GIL is kept. */
static void
op_end_interp(char **a)
{
    Py_EndInterpreter(PyThreadState_Get());
    PyThreadState_Swap(get(a[0]));
}

/* --- scripts --- */

static void op_join(char **a);

static const struct {
    const char *name;
    int arguments; /* the last one is the rest of the line */
    void (*run)(char **);
} operations[] = {
    /* events and slots */
    {"set", 1, op_set}, {"clear", 1, op_clear}, {"await", 1, op_await}, {"log", 1, op_log}, {"copy", 2, op_copy},
    {"never", 2, op_never}, {"await_up_to", 2, op_await_up_to}, {"until_main_sleeps", 0, op_until_main_sleeps},
    {"yield", 0, op_yield}, {"join", 1, op_join},
    {"same", 2, op_same}, {"differ", 2, op_differ}, {"null", 1, op_null}, {"some", 1, op_some},
    {"no_error", 0, op_no_error}, {"detached", 0, op_detached},
    /* PEP 788; the first argument is the slot of the result */
    {"guard", 2, op_guard}, {"guard_current", 1, op_guard_current}, {"close", 1, op_close},
    {"view_main", 1, op_view_main}, {"view_current", 1, op_view_current}, {"close_view", 1, op_close_view},
    {"ensure", 2, op_ensure}, {"ensure_view", 2, op_ensure_view}, {"release", 1, op_release},
    /* thread states */
    {"current", 1, op_current}, {"this", 1, op_this}, {"interp", 1, op_interp}, {"save", 1, op_save},
    {"restore", 1, op_restore}, {"gil_ensure", 1, op_gil_ensure}, {"gil_release", 1, op_gil_release},
    {"new_state", 2, op_new_state}, {"delete_current", 0, op_delete_current},
    /* Python */
    {"run", 1, op_run}, {"call", 1, op_call}, {"pending", 1, op_pending}, {"py_exit", 1, op_py_exit},
    {"raise_lookup_error", 0, op_raise}, {"caught_lookup_error", 0, op_caught},
    {"kill_sigint", 0, op_kill_sigint}, {"kill_sigusr1", 0, op_kill_sigusr1},
    {"raise_signal", 1, op_raise_signal},
    {"race", 3, op_race}, {"race_start", 3, op_race_start}, {"race_ensure", 3, op_race_ensure},
    {"refused", 2, op_refused},
    {"log_tally", 0, op_log_tally},
    /* the program */
    {"init", 0, op_init}, {"init_bare", 0, op_init_bare}, {"finalize", 0, op_finalize}, {"new_interp", 1, op_new_interp},
    {"new_own_gil", 1, op_new_own_gil}, {"end_interp", 1, op_end_interp},
};

static void
run_line(const char *line)
{
    char text[2100], *arguments[4] = {text, NULL, NULL, NULL};
    if (strlen(line) >= sizeof(text)) {
        fail("line too long");
    }
    strcpy(text, line);
    current_line = line;
    char *rest = text, *name = strsep(&rest, " ");
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        if (strcmp(operations[i].name, name) != 0) {
            continue;
        }
        int wanted = operations[i].arguments;
        for (int n = 0; n < wanted; n++) {
            arguments[n] = n == wanted - 1 ? rest : strsep(&rest, " ");
            if (arguments[n] == NULL) {
                fail("argument missing");
            }
        }
        operations[i].run(arguments);
        return;
    }
    fail("no such operation");
}

static int
opens_block(const char *line)
{
    return strncmp(line, "spawn ", 6) == 0 || strncmp(line, "repeat ", 7) == 0 || strncmp(line, "if ", 3) == 0;
}

static int
block_end(const Script *script, int from)
{
    for (int i = from + 1, depth = 1; i < script->count; i++) {
        depth += opens_block(script->lines[i]);
        depth -= strcmp(script->lines[i], "end") == 0;
        if (depth == 0) {
            return i;
        }
    }
    fail("block without end");
    return -1;
}

typedef struct {
    const Script *script;
    int from, to;
    pthread_t id;
} Thread;

static void run_lines(const Script *script, int from, int to);

static void *
thread_main(void *arg)
{
    Thread *thread = arg;
    run_lines(thread->script, thread->from, thread->to);
    return NULL;
}

static void
spawn(const char *name, const Script *script, int from, int to)
{
    Thread *thread = malloc(sizeof(*thread));
    *thread = (Thread){.script = script, .from = from, .to = to};
    put(name, thread);
    if (pthread_create(&thread->id, NULL, thread_main, thread) != 0) {
        fail("no thread");
    }
}

static void
op_join(char **a)
{
    Thread *thread = get(a[0]);
    if (pthread_join(thread->id, NULL) != 0) {
        fail("no such thread");
    }
    free(thread);
}

static void
run_lines(const Script *script, int from, int to)
{
    for (int i = from; i < to; i++) {
        const char *line = script->lines[i];
        if (!opens_block(line)) {
            run_line(line);
            continue;
        }
        current_line = line;
        int end = block_end(script, i);
        if (line[0] == 's') {
            spawn(line + 6, script, i + 1, end);
        } else if (line[0] == 'i') {
            run_lines(script, get(line + 3) != NULL ? i + 1 : end, end);
        } else {
            for (long left = atol(line + 7); left > 0; left--) {
                run_lines(script, i + 1, end);
            }
        }
        i = end;
    }
}

/* Never freed: threads that outlive everything may still be reading it. */
static const Script *
parse(const char *text)
{
    Script *script = calloc(1, sizeof(*script));
    char *rest = strdup(text), *line;
    script->lines = calloc(strlen(text) + 1, sizeof(*script->lines)); /* no line is empty */
    while ((line = strsep(&rest, "\n")) != NULL) {
        line += strspn(line, " ");
        if (*line == '\0' || *line == '#') {
            continue;
        }
        script->lines[script->count++] = line;
    }
    return script;
}

/* --- the module --- */

static PyObject *
probe_do(PyObject *self, PyObject *args)
{
    const char *text;
    if (!PyArg_ParseTuple(args, "s", &text)) {
        return NULL;
    }
    const Script *script = parse(text);
    run_lines(script, 0, script->count);
    Py_RETURN_NONE;
}

static PyObject *
one_operation(PyObject *args, void (*run)(char **), int detach)
{
    char *arguments[1];
    if (!PyArg_ParseTuple(args, "s", &arguments[0])) {
        return NULL;
    }
    if (!detach) {
        run(arguments);
        Py_RETURN_NONE;
    }
    Py_BEGIN_ALLOW_THREADS
    run(arguments);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *probe_set(PyObject *self, PyObject *args) { return one_operation(args, op_set, 0); }
static PyObject *probe_log(PyObject *self, PyObject *args) { return one_operation(args, op_log, 0); }
static PyObject *probe_wait(PyObject *self, PyObject *args) { return one_operation(args, op_await, 1); }
static PyObject *probe_join(PyObject *self, PyObject *args) { return one_operation(args, op_join, 1); }

static PyObject *
probe_guard_current(PyObject *self, PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name)) {
        return NULL;
    }
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        return NULL;
    }
    put(name, guard);
    Py_RETURN_NONE;
}

static PyObject *
probe_is_set(PyObject *self, PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name)) {
        return NULL;
    }
    return PyBool_FromLong(has_happened(name));
}

static PyObject *
probe_value(PyObject *self, PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name)) {
        return NULL;
    }
    return PyLong_FromVoidPtr(get(name));
}

static PyObject *
probe_store(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *value;
    if (!PyArg_ParseTuple(args, "sO", &name, &value)) {
        return NULL;
    }
    Py_INCREF(value); /* for ever */
    put(name, value);
    Py_RETURN_NONE;
}

static long witness_ms;

static void
mark(void)
{
    say(1, "finalized");
    event("finalized", 1);
    if (witness_ms) {
        happens_within("survived", witness_ms);
    }
}

/* mark(ms=0): log "finalized" and set that event when the runtime is gone; then wait that long for "survived". */
static PyObject *
probe_mark(PyObject *self, PyObject *args)
{
    if (!PyArg_ParseTuple(args, "|l", &witness_ms)) {
        return NULL;
    }
    if (Py_AtExit(mark) < 0) {
        fail("no room for an exit function");
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"do", probe_do, METH_VARARGS, "run a script on this thread, attached"},
    {"set", probe_set, METH_VARARGS, "set an event"},
    {"wait", probe_wait, METH_VARARGS, "wait detached for an event"},
    {"is_set", probe_is_set, METH_VARARGS, "whether an event happened"},
    {"join", probe_join, METH_VARARGS, "join a thread, detached"},
    {"log", probe_log, METH_VARARGS, "write a line to fd 1 at once"},
    {"store", probe_store, METH_VARARGS, "put an object into a slot"},
    {"value", probe_value, METH_VARARGS, "the pointer in a slot"},
    {"guard_current", probe_guard_current, METH_VARARGS, "a guard of this interpreter, or the exception"},
    {"mark", probe_mark, METH_VARARGS, "log the end of the runtime"},
    {NULL, NULL, 0, NULL},
};

static int
probe_exec(PyObject *module)
{
    return Pep788_Init();
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)probe_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "probe", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit_probe(void)
{
    return PyModuleDef_Init(&definition);
}

#ifdef PROGRAM
int
main(int argc, char **argv)
{
    if (argc != 2 || PyImport_AppendInittab("probe", PyInit_probe) < 0) {
        return 2;
    }
    const Script *script = parse(argv[1]);
    run_lines(script, 0, script->count);
    return 0;
}
#endif
