/* The other source file: never calls Pep788_Init, and shares the first one's copy of the data. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pep788.h>

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif
PyObject *second_close(PyObject *self, PyObject *guard);
PyObject *second_count(PyObject *self, PyObject *unused);
PyObject *second_on_thread(PyObject *self, PyObject *unused);
PyObject *second_ensure(PyObject *self, PyObject *callable);
#ifdef __cplusplus
}
#endif

PyObject *
second_close(PyObject *self, PyObject *guard)
{
    (void)self;
    PyInterpreterGuard_Close((PyInterpreterGuard *)PyLong_AsVoidPtr(guard));
    Py_RETURN_NONE;
}

PyObject *
second_count(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromSsize_t(Pep788_GuardCount(PyInterpreterState_Get()));
}

static void *
thread_body(void *result)
{
    PyInterpreterView *view = PyInterpreterView_FromMain();
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    if (token != NULL) {
        *(int *)result = PyRun_SimpleString("x = 1") == 0;
        PyThreadState_Release(token);
    }
    PyInterpreterView_Close(view);
    return NULL;
}

PyObject *
second_on_thread(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    int result = 0;
    Py_BEGIN_ALLOW_THREADS
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_body, &result) == 0) {
        pthread_join(thread, NULL);
    }
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(result);
}

PyObject *
second_ensure(PyObject *self, PyObject *callable)
{
    (void)self;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        return NULL;
    }
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    PyObject *result = PyObject_CallObject(callable, NULL);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
    return result;
}
