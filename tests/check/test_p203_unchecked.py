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
