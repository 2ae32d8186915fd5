/* F11 in programs that embed Python and have no module that calls Pep788_Init: argv[1] says which. */
#define PEP788_REPLACE_GILSTATE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* As when another part of the program, not recompiled, initializes Python: nothing of ours is set up by it. */
static void
stock_initialize(void)
{
    Py_Initialize();
}

#include <pep788.h>

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int inside;
static int at_exit;

static void
set_flag(int *flag, int value)
{
    pthread_mutex_lock(&lock);
    *flag = value;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void
wait_flag(int *flag)
{
    pthread_mutex_lock(&lock);
    while (!*flag) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static void
say(const char *text)
{
    ssize_t done = write(1, text, strlen(text));
    (void)done;
}

/* Every life: the first call sets the interpreter up, the second is inside at its end. */
static void
ensure_and_finalize(void)
{
    PyGILState_STATE state = PyGILState_Ensure();
    int failed = PyRun_SimpleString("import threading");
    assert(!failed);
    PyGILState_Release(state);
    (void)PyGILState_Ensure(); /* as such programs are: nobody releases it */
    failed = Py_FinalizeEx();
    assert(!failed);
    say("finalized\n");
}

static void *
other(void *unused)
{
    PyGILState_STATE state = PyGILState_Ensure();
    Py_BEGIN_ALLOW_THREADS
    set_flag(&inside, 1);
    wait_flag(&at_exit);
    usleep(100000); /* finalization gets its chance to go wrong */
    Py_END_ALLOW_THREADS
    int failed = PyRun_SimpleString("import colorsys; sum(range(1000))");
    assert(!failed);
    say("worked\n");
    PyGILState_Release(state);
    return NULL;
}

static PyObject *
tell_exit(PyObject *self, PyObject *unused)
{
    set_flag(&at_exit, 1);
    Py_RETURN_NONE;
}

static PyMethodDef tell_exit_def = {"tell_exit", tell_exit, METH_NOARGS, NULL};

static void
register_tell_exit(void)
{
    PyObject *function = PyCFunction_New(&tell_exit_def, NULL);
    PyObject *module = PyImport_ImportModule("atexit");
    PyObject *result = PyObject_CallMethod(module, "register", "O", function);
    assert(result != NULL);
    Py_DECREF(result);
    Py_DECREF(module);
    Py_DECREF(function);
}

static void
finalize_with_others_inside(void)
{
    pthread_t thread;
    PyThreadState *main_state;
    set_flag(&inside, 0);
    set_flag(&at_exit, 0);
    Py_Initialize();
    PyGILState_Release(PyGILState_Ensure());
    register_tell_exit();
    main_state = PyEval_SaveThread();
    int failed = pthread_create(&thread, NULL, other, NULL);
    assert(!failed);
    wait_flag(&inside);
    PyEval_RestoreThread(main_state);
    (void)PyGILState_Ensure();
    failed = Py_FinalizeEx();
    assert(!failed);
    pthread_join(thread, NULL);
    say("finalized\n");
}

/* The first call of ours in an interpreter, while an exception is on its way. */
static void
first_call(const char *name)
{
    PyErr_SetString(PyExc_LookupError, "mine");
    if (strncmp(name, "PyGILState_Ensure", 17) == 0) {
        PyGILState_Release(PyGILState_Ensure());
    }
    else if (strncmp(name, "PyInterpreterGuard_FromCurrent", 30) == 0) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        assert(guard != NULL);
        PyInterpreterGuard_Close(guard);
    }
    else {
        PyInterpreterView *view = PyInterpreterView_FromCurrent();
        assert(view != NULL);
        PyInterpreterView_Close(view);
    }
    say(PyErr_Occurred() == NULL ? "LOST\n" : PyErr_ExceptionMatches(PyExc_LookupError) ? "kept\n" : "ANOTHER\n");
    PyErr_Clear();
}

int
main(int argc, char **argv)
{
    assert(argc == 2);
    if (strncmp(argv[1], "finalize in ", 12) == 0) {
        int stock = strstr(argv[1], "stock") != NULL;
        for (int life = 0; life < 3; life++) {
            stock ? stock_initialize() : Py_Initialize();
            (void)PyEval_SaveThread();
            ensure_and_finalize();
        }
    }
    else if (strcmp(argv[1], "finalize, others inside") == 0) {
        finalize_with_others_inside();
        finalize_with_others_inside();
    }
    else {
        int sub = strstr(argv[1], " in sub") != NULL;
        PyThreadState *main_state;
        sub ? Py_Initialize() : stock_initialize();
        main_state = PyThreadState_Get();
        if (sub) {
            PyThreadState *state = Py_NewInterpreter();
            assert(state != NULL);
            first_call(argv[1]);
            Py_EndInterpreter(state);
            PyThreadState_Swap(main_state);
        }
        else {
            first_call(argv[1]);
        }
        int failed = Py_FinalizeEx();
        assert(!failed);
    }
    return 0;
}
