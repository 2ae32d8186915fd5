"""P201: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static int run(PyInterpreterView *view)
        {
            PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
            if (guard == NULL)
                return -1;
            if (work() < 0)
                return -1;  /* want: P201 */
            PyInterpreterGuard_Close(guard);
            return 0;
        }
        """,
        id="guard on an error path",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyThreadStateToken *token;
            if ((token = PyThreadState_EnsureFromView(view)) == NULL)
                return;
            if (data == NULL)
                return;  /* want: P201 */
            PyThreadState_Release(token);
        }
        """,
        id="token, tested in the condition that takes it",
    ),
]

NOOP = [
    pytest.param(
        """
        static int run(PyInterpreterView *view)
        {
            PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
            PyThreadStateToken *token;
            int result = -1;
            if (!guard)
                return -1;
            if ((token = PyThreadState_Ensure(guard))) {
                result = work();
                PyThreadState_Release(token);
            }
            PyInterpreterGuard_Close(guard);
            return result;
        }
        """,
        id="closed on every path",
    ),
    pytest.param(
        """
        static int start(struct task *task)
        {
            PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
            if (guard == NULL)
                return -1;
            task->guard = guard;
            return 0;
        }
        static PyInterpreterGuard *take(void)
        {
            PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
            return guard;
        }
        """,
        id="handed to somebody else",
    ),
    pytest.param(
        """
        static int run(void)
        {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
            int attached = token != NULL;
            if (!attached)
                return -1;
            PyThreadState_Release(token);
            return 0;
        }
        """,
        id="failure remembered in a variable",
    ),
    pytest.param(
        """
        static void *run(void *data)
        {
            PyThreadStateToken *token;
            while ((token = PyThreadState_EnsureFromView(view)) != NULL) {
                call(data);
                PyThreadState_Release(token);
            }
            return NULL;
        }
        """,
        id="a loop that ends with the interpreter",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P201" in source
    checker("P201", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P201", source)


CYTHON_FOUND = [
    pytest.param(
        "x.pyx",
        """
        cimport pep788

        cdef int run(pep788.PyInterpreterView *view) noexcept nogil:
            cdef pep788.PyInterpreterGuard *guard = pep788.PyInterpreterGuard_FromView(view)
            if guard == NULL:
                return -1
            if work() < 0:
                return -1  # want: P201
            pep788.PyInterpreterGuard_Close(guard)
            return 0
        """,
        id="guard",
    ),
    pytest.param(
        "x.py",
        """
        import cython
        from cython.cimports.pep788 import PyThreadState_EnsureFromView as ensure, PyThreadState_Release

        @cython.cfunc
        @cython.nogil
        def run() -> cython.int:
            token = ensure(view)
            if token == cython.NULL:
                return -1
            if work() < 0:
                return -1  # want: P201
            PyThreadState_Release(token)
            return 0
        """,
        id="token in pure-Python mode",
    ),
]

CYTHON_NOOP = [
    pytest.param(
        "x.pyx",
        """
        cimport pep788

        cdef int run(pep788.PyInterpreterView *view) noexcept nogil:
            cdef pep788.PyInterpreterGuard *guard = pep788.PyInterpreterGuard_FromView(view)
            if guard == NULL:
                return -1
            try:
                return work()
            finally:
                pep788.PyInterpreterGuard_Close(guard)
        """,
        id="closed in a finally",
    ),
    pytest.param(
        "x.pyx",
        """
        from pep788 cimport PyInterpreterGuard, PyInterpreterGuard_FromCurrent

        cdef class Owner:
            cdef PyInterpreterGuard *guard

            def __cinit__(self):
                self.guard = PyInterpreterGuard_FromCurrent()

        cdef PyInterpreterGuard *make() except NULL:
            guard = PyInterpreterGuard_FromCurrent()
            return guard
        """,
        id="stored and returned",
    ),
    pytest.param(
        "x.py",
        """
        import cython
        from cython.cimports.pep788 import PyThreadState_EnsureFromView, PyThreadState_Release

        @cython.cfunc
        @cython.nogil
        def run() -> cython.int:
            token = PyThreadState_EnsureFromView(view)
            if not token:
                return -1
            PyThreadState_Release(token)
            return 0
        """,
        id="pure-Python mode",
    ),
]


@pytest.mark.parametrize("name, source", CYTHON_FOUND)
def test_cython_found(checker, name, source):
    assert "want: P201" in source
    checker("P201", source, name=name)


@pytest.mark.parametrize("name, source", CYTHON_NOOP)
def test_cython_noop(checker, name, source):
    assert "want" not in source
    checker("P201", source, name=name)
