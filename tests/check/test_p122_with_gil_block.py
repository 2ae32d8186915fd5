"""P122: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        cdef void on_event(void *data) noexcept nogil:
            with gil:  # want: P122
                (<object>data)()
        """,
        id="in a nogil function",
    ),
    pytest.param(
        """
        cdef void on_event(void *data) noexcept nogil:
            with gil:  # want: P122
                (<object>data)()
            work()
            with gil:  # want: P122
                (<object>data)()
        """,
        id="twice",
    ),
]

NOOP = [
    pytest.param(
        """
        cdef void on_event(void *data) noexcept nogil:
            cdef PyThreadStateToken *token = PyThreadState_EnsureFromView(view)
            if token == NULL:
                return
            with gil:
                (<object>data)()
            PyThreadState_Release(token)
        """,
        id="nested in an Ensure of PEP 788",
    ),
    pytest.param(
        """
        def f(callback):
            with nogil:
                with gil:
                    callback()
        """,
        id="in a def function that released the GIL",
    ),
    pytest.param(
        """
        cdef void on_event(void *data) noexcept nogil:
            state = PyGILState_Ensure()
            with gil:
                (<object>data)()
            PyGILState_Release(state)
        """,
        id="nested in an Ensure that P101 reports",
    ),
]


def test_detached_inside_it(checker):
    source = """
    cdef void on_event(void *data) noexcept nogil:
        with gil:  # want: P122
            with nogil:
                work()
                with gil:
                    (<object>data)()
    """
    checker("P122", source, name="x.pyx")


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P122" in source
    checker("P122", source, name="x.pyx")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P122", source, name="x.pyx")
