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
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P107" in source
    checker("P107", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P107", source)
