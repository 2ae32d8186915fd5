/* F5 in a program that outlives the interpreter: dropped while it lives, after its end, and in its next life. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <assert.h>
#include <pthread.h>
#include <stdio.h>

#ifdef NDEBUG
#  error "these tests need their assertions"
#endif

static PyInterpreterView *view;

static void *
drop(void *object)
{
    Pep788_DropRef(view, (PyObject *)object);
    return NULL;
}

static void
drop_on_thread(PyObject *object)
{
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, drop, object);
    assert(!failed);
    pthread_join(thread, NULL);
}

static PyObject *
make(void)
{
    PyObject *main_module = PyImport_AddModule("__main__"); /* borrowed */
    PyObject *made = PyObject_CallMethod(main_module, "Noisy", NULL);
    assert(made != NULL);
    return made;
}

int
main(void)
{
    Py_Initialize();
    int failed = Pep788_Init();
    assert(!failed);
    failed = PyRun_SimpleString("import os\n"
                                "class Noisy:\n"
                                "    def __del__(self, write=os.write): write(1, b'deleted\\n')\n");
    assert(!failed);
    view = PyInterpreterView_FromCurrent();
    assert(view != NULL);
    PyObject *first = make();
    PyObject *second = make();
    PyObject *third = make();

    Py_BEGIN_ALLOW_THREADS
    drop_on_thread(first);
    Py_END_ALLOW_THREADS
    printf("alive\n");
    fflush(stdout);

    failed = Py_FinalizeEx();
    assert(!failed);
    drop_on_thread(second);
    drop(third);
    printf("ended\n");
    fflush(stdout);
    PyInterpreterView_Close(view);
    return 0;
}
