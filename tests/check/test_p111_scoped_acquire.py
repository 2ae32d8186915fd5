"""P111: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        void on_event()
        {
            py::gil_scoped_acquire gil;  // want: P111
            callback();
        }
        """,
        id="pybind11",
    ),
    pytest.param(
        """
        auto on_event = []() {
            auto gil = new pybind11::gil_scoped_acquire();  // want: P111
            delete gil;
        };
        void f() { g([] { nb::gil_scoped_acquire gil; call(); }); }  // want: P111
        """,
        id="on the heap, in a lambda",
    ),
]

NOOP = [
    pytest.param(
        """
        void on_event() { py::gil_scoped_release nogil; wait(); }
        """,
        id="release",
    ),
    pytest.param(
        """
        class gil_scoped_acquire;
        void f(py::gil_scoped_acquire &gil);
        """,
        id="a friend declaration",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P111" in source
    checker("P111", source, name="x.cpp")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P111", source, name="x.cpp")
