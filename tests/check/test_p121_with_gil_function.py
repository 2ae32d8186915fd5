"""P121: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        cdef void on_event(void *data) noexcept with gil:  # want: P121
            (<object>data)()
        """,
        id="callback",
    ),
    pytest.param(
        """
        cdef int on_event(double time,
                          void *data) except -1 with gil:  # want: P121
            return (<object>data)(time)
        """,
        id="over several lines, with a value",
    ),
]

NOOP = [
    pytest.param(
        """
        cdef extern from "x.h":
            ctypedef void (*callback)(void *data) with gil
            void run(callback f) nogil
        cdef void step() noexcept nogil:
            pass
        def f():
            with nogil:
                step()
        """,
        id="declared elsewhere, and without the GIL",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P121" in source
    checker("P121", source, name="x.pyx")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P121", source, name="x.pyx")


def test_pure_python_mode(checker):
    source = """\
import cython

@cython.cfunc
@cython.nogil
def quiet():
    pass

@cython.cfunc
@cython.with_gil  # want: P121
def on_event(data: cython.p_void):
    print()
"""
    checker("P121", source, name="x.py")


def test_pure_python_mode_with_the_types_in_a_pxd(checker):
    source = "cdef void on_event(void *data) noexcept with gil  # want: P121\n"
    checker("P121", source, name="x.pxd", x__py="def on_event(data):\n    print()\n")


def test_declarations_of_a_cython_file_are_found_where_it_defines_them(checker):
    source = "cdef void on_event(void *data) noexcept with gil\n"
    body = "cdef void on_event(void *data) noexcept with gil:  # want: P121\n    print()\n"
    checker("P121", source, name="x.pxd", x__pyx=body)
