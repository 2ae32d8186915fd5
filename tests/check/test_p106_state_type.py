"""P106: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void on_event(void)
        {
            int state = PyGILState_Ensure();  /* want: P106 */
            PyGILState_Release(state);
        }
        """,
        id="int",
    ),
    pytest.param(
        """
        struct callback { void *state; };
        static void enter(struct callback *self)
        {
            self->state = (void *)(intptr_t)PyGILState_Ensure();  /* want: P106 */
        }
        static void leave(struct callback *self)
        {
            PyGILState_Release((PyGILState_STATE)(intptr_t)self->state);  /* want: P106 */
        }
        """,
        id="a member that is a void pointer",
    ),
    pytest.param(
        """
        static void enter(void)
        {
            pthread_setspecific(key, (void *)PyGILState_Ensure());  /* want: P106 */
        }
        """,
        id="thread-local storage",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            PyGILState_Ensure();
            PyGILState_Release(PyGILState_UNLOCKED);  /* want: P106 */
        }
        """,
        id="a constant",
    ),
]

NOOP = [
    pytest.param(
        """
        typedef PyGILState_STATE gil_t;
        static void on_event(void)
        {
            PyGILState_STATE a = PyGILState_Ensure();
            gil_t b = PyGILState_Ensure();
            PyGILState_Release(b);
            PyGILState_Release(a);
        }
        """,
        id="the right type, a typedef of it, auto",
    ),
    pytest.param(
        """
        struct one { int state; };
        struct two { PyGILState_STATE state; };
        static void enter(struct two *self) { self->state = PyGILState_Ensure(); }
        """,
        id="two structs with a member of this name",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P106" in source
    checker("P106", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P106", source)


@pytest.mark.parametrize("kind, found", [("int", True), ("long", True), ("PyGILState_STATE", False)])
def test_cython_variable_declared_before(checker, kind, found):
    source = f"""\
cdef void on_event() noexcept nogil:
    cdef {kind} state
    state = PyGILState_Ensure(){"  # want: P106" if found else ""}
    PyGILState_Release(<PyGILState_STATE>state)
"""
    checker("P106", source, name="x.pyx")


USES = """
#include "session.h"
void on_event(%s)
{
    %s = PyGILState_Ensure();%s
    PyGILState_Release(%s);
}
"""


@pytest.mark.parametrize(
    "parameter, place, header, found",
    [
        ("struct session *s", "s->state", "struct session { int a; int state; };\n", True),
        ("session *s", "s->state", "typedef struct { long state; } session;\n", True),
        ("session *s", "s->state", "typedef struct _session { void *state; } session;\n", True),
        ("struct session *s", "s->state", "struct session { int a; PyGILState_STATE state; };\n", False),
        ("struct session *s", "s->state", "struct other { int state; };\n", False),
        ("struct session *s", "s->state", "#if A\nstruct session { int state; };\n#endif\n#if B\nstruct session { PyGILState_STATE state; };\n#endif\n", False),
        ("struct session *s", "s->state", "#if A\nstruct session { PyGILState_STATE state; };\n#else\nstruct session { int state; };\n#endif\n", False),
        ("void", "session.state", "struct session { int state; };\n", False),
    ],
)
def test_member_of_a_struct_in_a_header(checker, parameter, place, header, found):
    source = USES % (parameter, place, "  /* want: P106 */" if found else "", place)
    checker("P106", source, session__h=header)


def test_member_of_a_class_in_a_header(checker):
    source = "Lock::Lock()\n{\n    state_ = PyGILState_Ensure();  // want: P106\n}\n"
    checker("P106", source, name="x.cpp", lock__h="class Lock {\npublic:\n    Lock();\nprivate:\n    int state_;\n};\n")


def test_cython_in_pure_python_mode(checker):
    source = """
    import cython
    from cython.cimports.cpython.pystate import PyGILState_Ensure, PyGILState_STATE

    @cython.cfunc
    def wrong():
        state: cython.int = PyGILState_Ensure()  # want: P106
        other = cython.declare(cython.long, PyGILState_Ensure())  # want: P106

    @cython.cfunc
    def right():
        state: PyGILState_STATE = PyGILState_Ensure()
        other = cython.declare(PyGILState_STATE, PyGILState_Ensure())
    """
    checker("P106", source, name="x.py")
