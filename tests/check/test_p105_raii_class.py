"""P105: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        class Gil {
        public:
            Gil() : state_(PyGILState_Ensure()) {}  // want: P105
            ~Gil() { PyGILState_Release(state_); }
        private:
            PyGILState_STATE state_;
        };
        """,
        id="constructor and destructor",
    ),
    pytest.param(
        """
        Gil::Gil()
        {
            state_ = PyGILState_Ensure();  // want: P105
        }
        Gil::~Gil() { PyGILState_Release(state_); }
        """,
        id="defined outside of the class",
    ),
]

NOOP = [
    pytest.param(
        """
        Thing::Thing()
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        """,
        id="a constructor that is done when it returns",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P105" in source
    checker("P105", source, name="x.cpp")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P105", source, name="x.cpp")
