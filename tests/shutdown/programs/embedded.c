/* A host program that starts and ends Python again and again, with four native threads of its own all the while.
 *
 * The threads of the old program ask Py_IsInitialized() first, as many do. argv[1] is the number of cycles.
 */
#include <Python.h>

#include "ledger.h"

#include <stdio.h>

#ifdef DEMO_PEP788
#include <pep788.h>
static PyInterpreterView *view;
#endif

enum { THREADS = 4, CALLS = 40 };

static int cycle; /* the current one; threads of an earlier one end */
static int calls;

static void
run_python(void)
{
    if (PyRun_SimpleString("x = [str(i) for i in range(20)]") != 0) {
        abort();
    }
    __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
}

static void
call_python(void)
{
#ifdef DEMO_PEP788
    ledger_ask();
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    if (token == NULL) {
        ledger_refused();
        return;
    }
    ledger_attached();
    run_python();
    PyThreadState_Release(token);
    ledger_back();
#else
    if (Py_IsInitialized()) {
        ledger_ask();
        PyGILState_STATE state = PyGILState_Ensure();
        ledger_attached();
        run_python();
        PyGILState_Release(state);
        ledger_back();
    }
#endif
}

static void *
worker(void *own_cycle)
{
    while (__atomic_load_n(&cycle, __ATOMIC_SEQ_CST) == (int)(intptr_t)own_cycle) {
        call_python();
        if (PAUSE_US) {
            ledger_pause(PAUSE_US);
        }
    }
    return NULL;
}

static void
run_cycle(int number)
{
    pthread_t threads[THREADS];
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
    Py_InitializeEx(0);
#ifdef DEMO_PEP788
    if (Pep788_Init() < 0) {
        PyErr_Print();
        exit(1);
    }
#endif
    for (intptr_t i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)number) != 0) {
            exit(1);
        }
    }
    PyThreadState *saved = PyEval_SaveThread();
    while (__atomic_load_n(&calls, __ATOMIC_SEQ_CST) < CALLS) {
        ledger_pause(100);
    }
    PyEval_RestoreThread(saved);
    if (Py_FinalizeEx() < 0) {
        exit(1);
    }
    __atomic_store_n(&cycle, number + 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < THREADS; i++) {
#ifdef DEMO_PEP788
        pthread_join(threads[i], NULL); /* every one of them comes back */
#else
        pthread_detach(threads[i]);
#endif
    }
}

int
main(int argc, char **argv)
{
    int cycles = argc > 1 ? atoi(argv[1]) : 1;
    if (ledger_open(NULL) < 0) {
        return 1;
    }
#ifdef DEMO_PEP788
    view = PyInterpreterView_FromMain();
    if (view == NULL) {
        return 1;
    }
#endif
    for (int i = 0; i < cycles; i++) {
        run_cycle(i);
    }
    printf("cycles: %d\n", cycles);
    fflush(stdout);
    return 0;
}
