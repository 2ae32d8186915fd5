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
