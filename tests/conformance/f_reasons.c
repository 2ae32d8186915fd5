/* F3: the reason of a refusal before, during and after the life of the main interpreter. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static void
report(const char *when, PyInterpreterView *view)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
    Pep788_Failure of_guard = Pep788_LastFailure();
    PyThreadStateToken *token = NULL;
    if (guard != NULL) {
        PyInterpreterGuard_Close(guard);
    }
    else {
        token = PyThreadState_EnsureFromView(view);
        assert(token == NULL);
    }
    Pep788_Failure of_ensure = Pep788_LastFailure();
    printf("%s: %s %d %d\n", when, guard ? "guard" : "NULL", (int)of_guard, (int)of_ensure);
    fflush(stdout);
}

static PyInterpreterView *early;

static void *
on_other_thread(void *unused)
{
    /* NULL of another thread is not this thread's reason */
    printf("fresh thread: %d\n", (int)Pep788_LastFailure());
    report("foreign thread", early);
    return NULL;
}

static void
run_other_thread(void)
{
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, on_other_thread, NULL);
    assert(!failed);
    pthread_join(thread, NULL);
}

int
main(void)
{
    printf("at first: %d\n", (int)Pep788_LastFailure());
    early = PyInterpreterView_FromMain();
    assert(early != NULL);
    report("before", early);
    run_other_thread();

    Py_Initialize();
    int failed = Pep788_Init();
    assert(!failed);
    report("alive", early);
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub_state = Py_NewInterpreter();
    assert(sub_state != NULL);
    failed = Pep788_Init();
    assert(!failed);
    PyInterpreterView *of_sub = PyInterpreterView_FromCurrent();
    assert(of_sub != NULL);
    report("sub alive", of_sub);
    Py_EndInterpreter(sub_state);
    PyThreadState_Swap(main_state);
    report("sub ended", of_sub);
    PyInterpreterView *of_main = PyInterpreterView_FromCurrent();
    assert(of_main != NULL);
    report("main alive", of_main);

    failed = Py_FinalizeEx();
    assert(!failed);
    report("ended", of_main);
    report("ended, sub", of_sub);
    report("ended, early view", early);

    Py_Initialize();
    failed = Pep788_Init();
    assert(!failed);
    report("again, sub", of_sub);
    report("again, early view", early);
    failed = Py_FinalizeEx();
    assert(!failed);
    PyInterpreterView_Close(of_main);
    PyInterpreterView_Close(of_sub);
    PyInterpreterView_Close(early);
    return 0;
}
