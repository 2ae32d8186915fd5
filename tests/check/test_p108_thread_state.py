"""P108: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void on_event(void)
        {
            PyThreadState *state = PyThreadState_New(interpreter);  /* want: P108 */
            PyEval_RestoreThread(state);
            PyThreadState_Clear(state);
            PyThreadState_DeleteCurrent();
        }
        """,
        id="made, attached, deleted",
    ),
]

NOOP = [
    pytest.param(
        """
        static void f(void)
        {
            PyThreadState *state = PyEval_SaveThread();
            wait();
            PyEval_RestoreThread(state);
        }
        """,
        id="saved and restored",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P108" in source
    checker("P108", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P108", source)


def test_cython(checker):
    source = """\
cdef void run(PyInterpreterState *interpreter) noexcept nogil:
    cdef PyThreadState *state = PyThreadState_New(interpreter)  # want: P108
    PyEval_AcquireThread(state)
"""
    checker("P108", source, name="x.pyx")
    checker("P108", source.replace("PyThreadState_New", "PyThreadState_Get").replace("  # want: P108", ""), name="x.pyx")
