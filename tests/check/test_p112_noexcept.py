"""P112: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        Callback::~Callback()
        {
            PyGILState_STATE state = PyGILState_Ensure();  // want: P112
            Py_DECREF(callable);
            PyGILState_Release(state);
        }
        """,
        id="destructor",
    ),
    pytest.param(
        """
        void on_event() noexcept { py::gil_scoped_acquire gil; call(); }  // want: P112
        """,
        id="noexcept",
    ),
]

NOOP = [
    pytest.param(
        """
        Callback::~Callback() noexcept(false) { py::gil_scoped_acquire gil; }
        void on_event() { py::gil_scoped_acquire gil; }
        """,
        id="may throw",
    ),
    pytest.param(
        """
        Gil::~Gil() { PyGILState_Release(state); }
        """,
        id="a class that only releases",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P112" in source
    checker("P112", source, name="x.cpp")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P112", source, name="x.cpp")
