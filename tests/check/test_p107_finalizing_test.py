"""P107: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void on_event(void)
        {
            if (_Py_IsFinalizing())  /* want: P107 */
                return;
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        """,
        id="finalizing, then Ensure",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            if (Py_IsInitialized()) {  /* want: P107 */
                PyGILState_STATE state = PyGILState_Ensure();
                PyGILState_Release(state);
            }
        }
        """,
        id="initialized, then Ensure",
    ),
    pytest.param(
        """
        static int alive(void)
        {
            return Py_IsInitialized() && !_Py_IsFinalizing();
        }
        static void on_event(void)
        {
            if (!alive())  /* want: P107 */
                return;
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        """,
        id="through a helper",
    ),
    pytest.param(
        """
        #define ALIVE (Py_IsInitialized())
        #define GOING(x) (_Py_IsFinalizing() || (x))
        static void on_event(void)
        {
            if (ALIVE && ready) {  /* want: P107 */
                PyGILState_STATE state = PyGILState_Ensure();
                PyGILState_Release(state);
            }
        }
        static void on_other(void)
        {
            if (GOING(0))  /* want: P107 */
                return;
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        """,
        id="through macros",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            if (Py_IsInitialized() && !_Py_IsFinalizing()) {  /* want: P107 */
                PyGILState_STATE state = PyGILState_Ensure();
                PyGILState_Release(state);
            }
        }
        """,
        id="two tests in one condition are one finding",
    ),
    pytest.param(
        """
        static int enter(struct session *session)
        {
            if (session == NULL)
                return 0;
            PyEval_RestoreThread(session->state);
            return 1;
        }
        #define ENTER(session) enter(session)
        #define ENTER_OR_LEAVE(session)  /* want: P107 */ \
            if (_Py_IsFinalizing()) \
                return; \
            if (!enter(session)) \
                return;
        static void on_event(struct session *session)
        {
            if (_Py_IsFinalizing())  /* want: P107 */
                return;
            enter(session);
        }
        static void on_other(struct session *session)
        {
            if (_Py_IsFinalizing())  /* want: P107 */
                return;
            if (!ENTER(session))
                return;
        }
        """,
        id="before a function or macro of the tree that attaches",
    ),
]

NOOP = [
    pytest.param(
        """
        static void start(void)
        {
            if (!Py_IsInitialized())
                Py_Initialize();
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        """,
        id="a program that initializes Python",
    ),
    pytest.param(
        """
        static PyObject *alive(PyObject *self, PyObject *args)
        {
            Py_BEGIN_ALLOW_THREADS
            wait();
            Py_END_ALLOW_THREADS
            return PyBool_FromLong(!Py_IsFinalizing());
        }
        """,
        id="a test while attached, and no attach",
    ),
    pytest.param(
        """
        static int start(void)
        {
            if (!Py_IsInitialized())
                Py_Initialize();
            return 0;
        }
        static PyObject *ask(PyObject *self, PyObject *args)
        {
            return PyBool_FromLong(Py_IsInitialized());
        }
        static int alive(void) { return Py_IsInitialized(); }
        static int (*probe)(void) = alive;
        static void on_event(int alive_before)
        {
            if (start() < 0 || alive_before)
                return;
            note(alive());
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        """,
        id="helpers that do more than ask, or are not asked",
    ),
    pytest.param(
        """
        static int alive(void) { return Py_IsInitialized(); }
        static void drop(PyObject *object)
        {
            if (alive())
                Py_DECREF(object);
        }
        """,
        id="a helper's answer, and no attach",
    ),
    pytest.param(
        """
        static void report(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            PyGILState_Release(state);
        }
        static void on_event(void)
        {
            if (_Py_IsFinalizing())
                return;
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
            if (token != NULL)
                PyThreadState_Release(token);
        }
        static PyObject *method(PyObject *self, PyObject *args)
        {
            if (!_Py_IsFinalizing())
                report();
            Py_RETURN_NONE;
        }
        static void between(void)
        {
            report();
            if (_Py_IsFinalizing())
                return;
            compute();
        }
        """,
        id="before an attach that can fail, or of a thread that is attached",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P107" in source
    checker("P107", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P107", source)


def test_cython(checker):
    source = """\
cdef extern from "Python.h":
    bint Py_IsInitialized() nogil

cdef void on_event() noexcept nogil:
    if Py_IsInitialized():  # want: P107
        with gil:
            print()

cdef void ask() noexcept nogil:
    with gil:
        print()
    Py_IsInitialized()

cdef void attach() noexcept with gil:
    print()

cdef void on_other() noexcept nogil:
    if not Py_IsInitialized(): return  # want: P107
    attach()

cdef void on_attached():
    attach()
    if Py_IsInitialized():
        attach()
"""
    checker("P107", source, name="x.pyx")


def test_helpers_in_a_namespace(checker):
    source = """
    namespace compat { inline bool isFinalizing() { return _Py_IsFinalizing(); } }
    void on_event()
    {
        if (!compat::isFinalizing()) {  // want: P107
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
    }
    """
    checker("P107", source, name="x.cpp")
