/* F11: an extension as people wrote them for twenty years. It knows nothing of pep788 and is not changed for it: the
   test compiles it with `-include pep788.h -DPEP788_REPLACE_GILSTATE`, once more with Py_LIMITED_API. What it says of
   the GIL at its end it says to free-threaded builds alone, as such an extension does once it has been ported to them:
   without it the import would switch the GIL on, with a warning, and nothing would be tested there. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int flags[16];

static void
say(const char *text)
{
    ssize_t done = write(1, text, strlen(text));
    (void)done;
}

static void
set_flag(int n)
{
    pthread_mutex_lock(&lock);
    flags[n]++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void
wait_flag(int n)
{
    pthread_mutex_lock(&lock);
    while (!flags[n]) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

/* 1 if the flag was set within the time */
static int
wait_flag_timed(int n, long milliseconds)
{
    struct timespec end;
    int status = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += milliseconds * 1000000L;
    end.tv_sec += end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&lock);
    while (!flags[n] && status != ETIMEDOUT) {
        status = pthread_cond_timedwait(&changed, &lock, &end);
    }
    int set = flags[n];
    pthread_mutex_unlock(&lock);
    return set;
}

static void
call(PyObject *callable)
{
    PyObject *result = PyObject_CallObject(callable, NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable(callable);
    }
    Py_XDECREF(result);
}

static void
start(void *(*run)(void *), void *arg)
{
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, run, arg);
    assert(!failed);
    pthread_detach(thread);
}

/* callbacks(callable, threads): each native thread calls it for ever, without pause unless PACED: native guards taken
   again at once would keep finalization waiting (F9). Every call says "b" when it is in and "e" when it is about to
   leave, so that a call that was cut short is seen. */
static void *
callback_loop(void *callable)
{
    for (;;) {
        PyGILState_STATE state = PyGILState_Ensure();
        say("b");
        call((PyObject *)callable);
        say("e");
        PyGILState_Release(state);
        set_flag(0);
#ifdef PACED
        usleep(1000);
#endif
    }
    return NULL;
}

static PyObject *
callbacks(PyObject *self, PyObject *args)
{
    PyObject *callable;
    int threads;
    if (!PyArg_ParseTuple(args, "Oi", &callable, &threads)) {
        return NULL;
    }
    Py_INCREF(callable);
    for (int i = 0; i < threads; i++) {
        start(callback_loop, callable);
    }
    Py_BEGIN_ALLOW_THREADS
    wait_flag(0);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* one_call(callable): a single call on a native thread, which has begun when this returns */
static void *
one_call_run(void *callable)
{
    PyGILState_STATE state = PyGILState_Ensure();
    call((PyObject *)callable);
    PyGILState_Release(state);
    say("call finished\n");
    return NULL;
}

static PyObject *
one_call(PyObject *self, PyObject *callable)
{
    Py_INCREF(callable);
    start(one_call_run, callable);
    Py_RETURN_NONE;
}

/* keeps_one(callable): as cffi, Ensure once more than Release, so that CPython keeps the thread state; the thread then
   goes on outside Python for ever. Sets flag 7 when it is outside. */
static void *
keeps_one_run(void *callable)
{
    PyGILState_STATE state = PyGILState_Ensure();
    (void)PyGILState_Ensure();
    call((PyObject *)callable);
    PyGILState_Release(state);
    set_flag(7);
    for (;;) {
        pause();
    }
    return NULL;
}

static PyObject *
keeps_one(PyObject *self, PyObject *callable)
{
    Py_INCREF(callable);
    start(keeps_one_run, callable);
    Py_RETURN_NONE;
}

/* late_caller(): a thread whose first call comes after Py_FinalizeEx. It must neither return nor die. */
static void *
late_run(void *unused)
{
    wait_flag(1);
    set_flag(2);
    PyGILState_STATE state = PyGILState_Ensure();
    set_flag(3);
    say("LATE CALLER GOT IN\n");
    PyGILState_Release(state);
    return NULL;
}

static void
after_finalization(void)
{
    set_flag(1);
    wait_flag(2);
    if (!wait_flag_timed(3, 200)) {
        say("parked\n");
    }
}

static PyObject *
late_caller(PyObject *self, PyObject *unused)
{
    start(late_run, NULL);
    atexit(after_finalization);
    Py_RETURN_NONE;
}

#ifndef Py_LIMITED_API
/* meanings(): what the functions say before, inside nested calls, and after; on a native thread */
static void *
meanings_run(void *out)
{
    char *text = (char *)out;
    text += sprintf(text, "before %d;", PyGILState_GetThisThreadState() != NULL);
    PyGILState_STATE outer = PyGILState_Ensure();
    text += sprintf(text, "outer %s %d %d;", outer == PyGILState_LOCKED ? "locked" : "unlocked", PyGILState_Check(),
                    PyGILState_GetThisThreadState() == PyThreadState_Get());
    PyGILState_STATE inner = PyGILState_Ensure();
    text += sprintf(text, "inner %s %d %d;", inner == PyGILState_LOCKED ? "locked" : "unlocked", PyGILState_Check(),
                    PyGILState_GetThisThreadState() == PyThreadState_Get());
    PyGILState_Release(inner);
    text += sprintf(text, "outer again %d;", PyGILState_Check());
    Py_BEGIN_ALLOW_THREADS
    PyGILState_STATE nested = PyGILState_Ensure();
    text += sprintf(text, "in ALLOW_THREADS %s %d;", nested == PyGILState_LOCKED ? "locked" : "unlocked",
                    PyGILState_Check());
    PyGILState_Release(nested);
    Py_END_ALLOW_THREADS
    PyGILState_Release(outer);
    sprintf(text, "after %d", PyGILState_GetThisThreadState() != NULL);
    return NULL;
}

static PyObject *
meanings(PyObject *self, PyObject *unused)
{
    char text[400];
    pthread_t thread;
    Py_BEGIN_ALLOW_THREADS
    int failed = pthread_create(&thread, NULL, meanings_run, text);
    assert(!failed);
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    return PyUnicode_FromString(text);
}
#endif

/* here(callable): Ensure/Release around a call on the thread that calls it, attached already */
static PyObject *
here(PyObject *self, PyObject *callable)
{
    PyThreadState *before = PyThreadState_Get();
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = PyObject_CallObject(callable, NULL);
    PyGILState_Release(state);
    assert(PyThreadState_Get() == before);
    return result;
}

/* Sources take the functions' addresses, too. */
static PyGILState_STATE (*ensure)(void) = PyGILState_Ensure;
static void (*release)(PyGILState_STATE) = &PyGILState_Release;

static void *
pointers_run(void *callable)
{
    PyGILState_STATE state = ensure();
    call((PyObject *)callable);
    release(state);
    return NULL;
}

static PyObject *
by_pointers(PyObject *self, PyObject *callable)
{
    pthread_t thread;
    Py_BEGIN_ALLOW_THREADS
    int failed = pthread_create(&thread, NULL, pointers_run, callable);
    assert(!failed);
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* main_loop(callable): a library's loop, entered detached, that calls back on the thread that entered it; the callback
   does what many do with an exception */
static void
called_back(PyObject *callable)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = PyObject_CallObject(callable, NULL);
    if (result == NULL) {
        PyErr_Print(); /* exits the process on SystemExit */
    }
    Py_XDECREF(result);
    PyGILState_Release(state);
}

static PyObject *
main_loop(PyObject *self, PyObject *callable)
{
    Py_BEGIN_ALLOW_THREADS
    called_back(callable);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* Stream(): closing it is a call of a library that may block, and that says "finished" on the thread that closes */
static void
stream_finished(void)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *number = PyLong_FromLong(788);
    say(number != NULL ? "finished\n" : "NO NUMBER\n");
    Py_XDECREF(number);
    PyGILState_Release(state);
}

static void
stream_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_BEGIN_ALLOW_THREADS
    stream_finished();
    Py_END_ALLOW_THREADS
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot stream_slots[] = {
    {Py_tp_dealloc, (void *)stream_dealloc},
    {0, NULL},
};

static PyType_Spec stream_spec = {"f_gilstate.Stream", (int)sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, stream_slots};

/* "#" formats are only right when PY_SSIZE_T_CLEAN was there for the first include of Python.h */
static PyObject *
length(PyObject *self, PyObject *args)
{
    const char *text;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "s#", &text, &size)) {
        return NULL;
    }
    return Py_BuildValue("s#n", text, size, size);
}

static PyObject *
set(PyObject *self, PyObject *n)
{
    set_flag((int)PyLong_AsLong(n));
    Py_RETURN_NONE;
}

static PyObject *
wait_for(PyObject *self, PyObject *n)
{
    int flag = (int)PyLong_AsLong(n);
    Py_BEGIN_ALLOW_THREADS
    wait_flag(flag);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"callbacks", callbacks, METH_VARARGS, NULL},
    {"one_call", one_call, METH_O, NULL},
    {"keeps_one", keeps_one, METH_O, NULL},
    {"late_caller", late_caller, METH_NOARGS, NULL},
#ifndef Py_LIMITED_API
    {"meanings", meanings, METH_NOARGS, NULL},
#endif
    {"here", here, METH_O, NULL},
    {"by_pointers", by_pointers, METH_O, NULL},
    {"main_loop", main_loop, METH_O, NULL},
    {"length", length, METH_VARARGS, NULL},
    {"set", set, METH_O, NULL},
    {"wait", wait_for, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "f_gilstate", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit_f_gilstate(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *stream = module == NULL ? NULL : PyType_FromSpec(&stream_spec);
    if (stream == NULL || PyModule_AddObject(module, "Stream", stream) < 0) {
        Py_XDECREF(stream);
        Py_XDECREF(module);
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    if (module != NULL) {
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
    }
#endif
    return module;
}
