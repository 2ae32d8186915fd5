"""P202: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void run(void)
        {
            PyThreadStateToken *outer = PyThreadState_Ensure(one);
            if (outer == NULL)
                return;
            PyThreadStateToken *inner = PyThreadState_Ensure(other);
            if (inner == NULL) {
                PyThreadState_Release(outer);
                return;
            }
            PyThreadState_Release(outer);  /* want: P202 */
            PyThreadState_Release(inner);
        }
        """,
        id="first in, first out",
    ),
]

NOOP = [
    pytest.param(
        """
        static void run(void)
        {
            PyThreadStateToken *outer = PyThreadState_Ensure(one);
            if (outer == NULL)
                return;
            PyThreadStateToken *inner = PyThreadState_Ensure(other);
            if (inner != NULL)
                PyThreadState_Release(inner);
            PyThreadState_Release(outer);
        }
        """,
        id="nested",
    ),
    pytest.param(
        """
        static void run(void)
        {
            PyThreadStateToken *a = PyThreadState_Ensure(one);
            if (a != NULL)
                PyThreadState_Release(a);
            PyThreadStateToken *b = PyThreadState_Ensure(one);
            if (b != NULL)
                PyThreadState_Release(b);
        }
        """,
        id="one after the other",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P202" in source
    checker("P202", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P202", source)


CYTHON_FOUND = [
    pytest.param(
        "x.pyx",
        """
        cdef void run(PyInterpreterGuard *one, PyInterpreterGuard *other) noexcept nogil:
            cdef PyThreadStateToken *outer = PyThreadState_Ensure(one)
            if outer == NULL:
                return
            cdef PyThreadStateToken *inner = PyThreadState_Ensure(other)
            PyThreadState_Release(outer)  # want: P202
            if inner != NULL:
                PyThreadState_Release(inner)
        """,
        id="in Cython",
    ),
    pytest.param(
        "x.py",
        """
        import cython
        from cython.cimports import pep788

        @cython.cfunc
        @cython.nogil
        def run(one: pep788.Guard, other: pep788.Guard):
            outer = pep788.PyThreadState_Ensure(one)
            if outer == cython.NULL:
                return
            inner = pep788.PyThreadState_Ensure(other)
            pep788.PyThreadState_Release(outer)  # want: P202
            if inner != cython.NULL:
                pep788.PyThreadState_Release(inner)
        """,
        id="in pure-Python mode",
    ),
]

CYTHON_NOOP = [
    pytest.param(
        "x.pyx",
        """
        cdef void run(PyInterpreterGuard *one, PyInterpreterGuard *other) noexcept nogil:
            cdef PyThreadStateToken *outer = PyThreadState_Ensure(one)
            if outer == NULL:
                return
            cdef PyThreadStateToken *inner = PyThreadState_Ensure(other)
            try:
                if inner != NULL:
                    PyThreadState_Release(inner)
            finally:
                PyThreadState_Release(outer)
        """,
        id="in order",
    ),
]


@pytest.mark.parametrize("name, source", CYTHON_FOUND)
def test_cython_found(checker, name, source):
    assert "want: P202" in source
    checker("P202", source, name=name)


@pytest.mark.parametrize("name, source", CYTHON_NOOP)
def test_cython_noop(checker, name, source):
    assert "want" not in source
    checker("P202", source, name=name)
