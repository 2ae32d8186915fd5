/* Uses every name of the header, as C and as C++, so that each of its functions is compiled for real.
   PYTHON_FIRST: the header after Python.h instead of before it. */
#ifdef PYTHON_FIRST
#  define PY_SSIZE_T_CLEAN
#  include <Python.h>
#endif
#include <pep788.h>
#include <pep788.h> /* twice is once */
#ifndef PYTHON_FIRST
#  define PY_SSIZE_T_CLEAN
#  include <Python.h>
#endif

#ifndef PEP788_VERSION_HEX
#  error "no PEP788_VERSION_HEX"
#endif
#if PEP788_NATIVE != 0 && PEP788_NATIVE != 1
#  error "PEP788_NATIVE is neither 0 nor 1"
#endif

PyObject *c_use(PyObject *object, const char **version);
PyObject *
c_use(PyObject *object, const char **version)
{
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    PyInterpreterGuard *second = PyInterpreterGuard_FromView(view);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(main_view);
    PyInterpreterState *interp = Pep788_GuardInterpreter(guard);
    Pep788_Failure failure = Pep788_LastFailure();
    switch (failure) {
    case PEP788_OK:
    case PEP788_NOT_INITIALIZED:
    case PEP788_FINALIZING:
    case PEP788_GONE:
    case PEP788_NO_MEMORY:
        break;
    }
    *version = failure == PEP788_OK ? PEP788_VERSION : Pep788_FailureName(failure);
    PyThreadState_Release(inner);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(second);
    PyInterpreterGuard_Close(guard);
    Py_INCREF(object);
    Pep788_DropRef(view, object);
    PyInterpreterView_Close(view);
    PyInterpreterView_Close(main_view);
    if (Pep788_Init() < 0 || Pep788_GuardCount(interp) < 0) {
        return NULL;
    }
    return Pep788_Modules();
}

/* Names are functions, or at least may be used like them. */
typedef PyInterpreterGuard *(*c_use_from_view)(PyInterpreterView *);
c_use_from_view c_use_pointer(void);
c_use_from_view
c_use_pointer(void)
{
    return &PyInterpreterGuard_FromView;
}

#ifdef PEP788_REPLACE_GILSTATE
void c_use_gilstate(void);
void
c_use_gilstate(void)
{
    PyGILState_STATE (*ensure)(void) = PyGILState_Ensure;
    PyGILState_STATE outer = PyGILState_Ensure();
    PyGILState_STATE inner = ensure();
    PyGILState_Release(inner);
    PyGILState_Release(outer);
}
#endif
