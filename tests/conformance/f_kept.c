/* F6 in a program that outlives the interpreter: threads with kept states go through its ends and its next lives. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <assert.h>
#include <pthread.h>
#include <stdio.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

enum { LIVES = 4, THREADS = 3 };

static PyInterpreterView *view;
static pthread_barrier_t turn;

static PyInterpreterView *sub_view;
static PyThreadState *in_sub[THREADS];

static void
call(int live)
{
    for (int i = 0; i < 5; i++) {
        PyThreadStateToken *token = Pep788_EnsureKept(view);
        assert((token != NULL) == live);
        if (token != NULL) {
            int failed = PyRun_SimpleString("import threading\n"
                                            "local = globals().setdefault('local', threading.local())\n"
                                            "local.calls = getattr(local, 'calls', 0) + 1\n");
            assert(!failed);
            PyThreadState *mine = PyThreadState_Get();
            PyGILState_STATE state = PyGILState_Ensure();
            assert(PyThreadState_Get() == mine);
            PyGILState_Release(state);
            Pep788_ReleaseKept(token);
            state = PyGILState_Ensure();
            PyRun_SimpleString("sum(range(10))");
            PyGILState_Release(state);
        }
    }
}

/* Keeps a state there as well. */
static void
visit_sub(int me)
{
    for (int i = 0; i < 3; i++) {
        PyThreadStateToken *token = Pep788_EnsureKept(sub_view);
        assert(token != NULL);
        PyThreadState *mine = PyThreadState_Get();
        assert(i == 0 || mine == in_sub[me]);
        in_sub[me] = mine;
        PyRun_SimpleString("sum(range(10))");
        Pep788_ReleaseKept(token);
        token = PyThreadState_EnsureFromView(view);
        assert(token != NULL && PyThreadState_Get() != mine);
        PyThreadState_Release(token);
    }
}

static void *
live_on(void *arg)
{
    int me = (int)(intptr_t)arg;
    for (int life = 0; life < LIVES; life++) {
        pthread_barrier_wait(&turn); /* initialized */
        call(1);
        visit_sub(me);
        pthread_barrier_wait(&turn); /* called */
        pthread_barrier_wait(&turn); /* the subinterpreter has ended */
        assert(Pep788_EnsureKept(sub_view) == NULL);
        call(1);
        pthread_barrier_wait(&turn); /* called again */
        pthread_barrier_wait(&turn); /* finalized */
        call(0);
        pthread_barrier_wait(&turn); /* refused */
    }
    return NULL;
}

int
main(void)
{
    pthread_t threads[THREADS];
    pthread_barrier_init(&turn, NULL, THREADS + 1);
    view = PyInterpreterView_FromMain();
    assert(view != NULL);
    for (int i = 0; i < THREADS; i++) {
        int failed = pthread_create(&threads[i], NULL, live_on, (void *)(intptr_t)i);
        assert(!failed);
    }
    for (int life = 0; life < LIVES; life++) {
        Py_Initialize();
        int failed = Pep788_Init();
        assert(!failed);
        PyThreadState *main_state = PyThreadState_Get();
        PyThreadState *sub = Py_NewInterpreter();
        assert(sub != NULL);
        failed = Pep788_Init();
        assert(!failed);
        sub_view = PyInterpreterView_FromCurrent();
        assert(sub_view != NULL);
        (void)PyEval_SaveThread();
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
        PyEval_RestoreThread(sub);
        Py_EndInterpreter(sub); /* aborts up to 3.13 if it meets another thread state */
        PyThreadState_Swap(main_state);
        (void)PyEval_SaveThread();
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
        PyEval_RestoreThread(main_state);
        PyInterpreterView_Close(sub_view);
        failed = Py_FinalizeEx();
        assert(!failed);
        pthread_barrier_wait(&turn);
        call(0);
        pthread_barrier_wait(&turn);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    PyInterpreterView_Close(view);
    printf("done\n");
    return 0;
}
