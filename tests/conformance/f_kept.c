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

static void *
live_on(void *unused)
{
    for (int life = 0; life < LIVES; life++) {
        pthread_barrier_wait(&turn); /* initialized */
        call(1);
        pthread_barrier_wait(&turn); /* called */
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
        int failed = pthread_create(&threads[i], NULL, live_on, NULL);
        assert(!failed);
    }
    for (int life = 0; life < LIVES; life++) {
        Py_Initialize();
        int failed = Pep788_Init();
        assert(!failed);
        Py_BEGIN_ALLOW_THREADS
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
        Py_END_ALLOW_THREADS
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
