"""P203: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void on_event(void)
        {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);  /* want: P203 */
            PyErr_Print();
            PyThreadState_Release(token);
        }
        """,
        id="not tested",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            PyThreadState_Ensure(guard);  /* want: P203 */
        }
        """,
        id="dropped",
    ),
]

NOOP = [
    pytest.param(
        """
        static void on_event(void)
        {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
            if (token) {
                PyErr_Print();
                PyThreadState_Release(token);
            }
        }
        """,
        id="tested",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            PyThreadStateToken *token = PyThreadState_Ensure(guard);
            assert(token != NULL);
            PyThreadState_Release(token);
        }
        """,
        id="asserted",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P203" in source
    checker("P203", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P203", source)


CYTHON = """\
cdef void on_event() noexcept nogil:
    cdef PyThreadStateToken *token = PyThreadState_EnsureFromView(view)%s
    %s
    with gil:
        print()
    PyThreadState_Release(token)
"""


@pytest.mark.parametrize(
    "test, found",
    [("pass", True), ("if token == NULL: return", False), ("if not token: return", False), ("log(token)", False)],
)
def test_cython(checker, test, found):
    checker("P203", CYTHON % ("  # want: P203" if found else "", test), name="x.pyx")


def test_cython_drops_the_result(checker):
    source = "cdef void f() noexcept nogil:\n    PyThreadState_EnsureFromView(view)  # want: P203\n"
    checker("P203", source, name="x.pyx")


def test_cython_tests_it_on_another_path(checker):
    branch = "if rest():\n        if token != NULL: PyThreadState_Release(token)\n        return"
    checker("P203", CYTHON % ("  # want: P203", branch), name="x.pyx")


def test_cython_in_pure_python_mode(checker):
    source = """
    import cython
    from cython.cimports.pep788 import PyThreadState_EnsureFromView as ensure, PyThreadState_Release

    @cython.cfunc
    @cython.nogil
    def untested() -> cython.int:
        token = ensure(view)  # want: P203
        PyThreadState_Release(token)
        return 0

    @cython.cfunc
    @cython.nogil
    def tested() -> cython.int:
        token = ensure(view)
        if token != cython.NULL:
            PyThreadState_Release(token)
        return 0
    """
    checker("P203", source, name="x.py")
