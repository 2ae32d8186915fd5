"""P109: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void on_event(void)
        {
            use(PyInterpreterState_Main());  /* want: P109 */
        }
        """,
        id="main",
    ),
]

NOOP = [
    pytest.param(
        """
        static int is_main(void) { return PyInterpreterState_Get() == PyInterpreterState_Main(); }
        """,
        id="only compared",
    ),
    pytest.param(
        """
        static void f(void) { if (PyInterpreterState_Head() == NULL) return; Py_DECREF(x); }
        """,
        id="only whether there is any",
    ),
    pytest.param(
        """
        static void f(void) { use(PyInterpreterState_Get()); }
        """,
        id="the current one",
    ),
    pytest.param(
        """
        int main(void) { Py_Initialize(); use(PyInterpreterState_Main()); }
        """,
        id="a program that starts Python",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P109" in source
    checker("P109", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P109", source)


def test_cython(checker):
    source = "cdef void run() noexcept nogil:\n    use(PyInterpreterState_Main())  # want: P109\n    use(PyInterpreterState_Get())\n"
    checker("P109", source, name="x.pyx")
