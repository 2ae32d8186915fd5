"""P103: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void enter(struct callback *self)
        {
            self->state = PyGILState_Ensure();  /* want: P103 */
        }
        static void leave(struct callback *self)
        {
            PyGILState_Release(self->state);
        }
        """,
        id="one function takes it and another gives it back",
    ),
    pytest.param(
        """
        static PyGILState_STATE enter(void)
        {
            return PyGILState_Ensure();  /* want: P103 */
        }
        """,
        id="a helper returns it",
    ),
]

NOOP = [
    pytest.param(
        """
        static void on_event(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyRun_SimpleString("pass");
        }
        """,
        id="a leak, which is another rule's",
    ),
    pytest.param(
        """
        static void on_event(struct callback *self)
        {
            self->state = PyGILState_Ensure();
            PyGILState_Release(self->state);
        }
        """,
        id="a member, but in one function",
    ),
    pytest.param(
        """
        static void keep(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            assert(state == PyGILState_LOCKED);
            (void)state;
        }
        """,
        id="one that says that it nests",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P103" in source
    checker("P103", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P103", source)


CYTHON = """
from cpython cimport pystate
cdef pystate.PyGILState_STATE kept

cdef class Holder:
    cdef pystate.PyGILState_STATE state

    cdef void enter(self) noexcept nogil:
        self.state = pystate.PyGILState_Ensure()%s

    cdef void leave(self) noexcept nogil:
        pystate.PyGILState_Release(self.state)

cdef pystate.PyGILState_STATE enter() noexcept nogil:
    return pystate.PyGILState_Ensure()%s

cdef void pair() noexcept nogil:
    state = pystate.PyGILState_Ensure()%s
    pystate.PyGILState_Release(state)
"""


def test_cython(checker):
    """Each is said once: by this rule, or by P101."""
    checker("P103", CYTHON % ("  # want: P103", "  # want: P103", ""), name="x.pyx")
    checker("P", CYTHON % ("  # want: P103", "  # want: P103", "  # want: P101"), name="x.pyx")
