"""pep788.h for Cython 3: `cimport pep788`, and pep788.get_include() on the include path.

What is declared nogil may be called on any thread, attached or not; what is not
needs an attached thread state. docs/bindings.md has the pattern for callbacks.
"""

from cpython.object cimport PyObject
from cpython.pystate cimport PyInterpreterState


cdef extern from "pep788.h" nogil:
    const char *PEP788_VERSION
    int PEP788_VERSION_HEX

    ctypedef struct PyInterpreterGuard:
        pass
    ctypedef struct PyInterpreterView:
        pass
    ctypedef struct PyThreadStateToken:
        pass

    # NULL without an exception: it is too late, or there is no memory. Pep788_LastFailure says why.
    PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *view) noexcept
    PyInterpreterView *PyInterpreterView_FromMain() noexcept
    PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *guard) noexcept
    PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view) noexcept
    PyThreadStateToken *Pep788_EnsureKept(PyInterpreterView *view) noexcept

    void PyInterpreterGuard_Close(PyInterpreterGuard *guard) noexcept
    void PyInterpreterView_Close(PyInterpreterView *view) noexcept
    # These need the attached thread state that the matching Ensure left.
    void PyThreadState_Release(PyThreadStateToken *token) noexcept
    void Pep788_ReleaseKept(PyThreadStateToken *token) noexcept

    # Steals a reference that C holds: Py_INCREF it when it is given away.
    void Pep788_DropRef(PyInterpreterView *view, PyObject *object) noexcept

    ctypedef enum Pep788_Failure:
        PEP788_OK
        PEP788_NOT_INITIALIZED
        PEP788_FINALIZING
        PEP788_GONE
        PEP788_NO_MEMORY

    Pep788_Failure Pep788_LastFailure() noexcept
    const char *Pep788_FailureName(Pep788_Failure failure) noexcept
    Py_ssize_t Pep788_GuardCount(PyInterpreterState *interp) noexcept
    PyInterpreterState *Pep788_GuardInterpreter(PyInterpreterGuard *guard) noexcept
    void Pep788_EnterInsider() noexcept
    void Pep788_LeaveInsider() noexcept


cdef extern from "pep788.h":
    int Pep788_Init() except -1
    PyInterpreterGuard *PyInterpreterGuard_FromCurrent() except NULL
    PyInterpreterView *PyInterpreterView_FromCurrent() except NULL
    object Pep788_Modules()
