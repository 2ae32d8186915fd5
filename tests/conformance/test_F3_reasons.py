"""F3: a refusal has a reason, asked for on the thread that got NULL."""

from __future__ import annotations

import builtins

import pytest
import support
from f_tools import FINALIZING, GONE, HERE, NOT_INITIALIZED, OK, child, events


@pytest.fixture(scope="module")
def life() -> dict:
    """What f_reasons.c saw, by when: (guard or NULL, reason of FromView, reason of EnsureFromView)."""
    program = support.build_program("f_reasons", [HERE / "f_reasons.c"])
    result = support.run_child([program]).check()
    return dict(line.split(": ") for line in result.lines())


def refused(reason: int) -> str:
    return f"NULL {reason} {reason}"


@support.ours_only("native keeps no reason: the runtime is asked when the caller asks")
def test_F3_no_reason_before_any_failure(life) -> None:
    assert life["at first"] == str(OK)


@support.ours_only("native keeps no reason: the runtime is asked when the caller asks")
def test_F3_a_reason_belongs_to_its_thread(life) -> None:
    assert life["fresh thread"] == str(OK)
    assert life["foreign thread"].startswith("NULL ")


def test_F3_not_initialized(life) -> None:
    assert life["before"] == refused(NOT_INITIALIZED)
    assert life["foreign thread"] == refused(NOT_INITIALIZED)


@pytest.mark.parametrize("when", ["alive", "sub alive", "main alive", "again, early view"])
def test_F3_a_view_of_a_living_interpreter_gives_a_guard(life, when: str) -> None:
    assert life[when].startswith("guard ")


@support.ours_only("a native view does not tell a destroyed subinterpreter from one that is ending")
@pytest.mark.parametrize("when", ["sub ended", "ended, sub", "again, sub"])
def test_F3_a_subinterpreter_that_is_gone(life, when: str) -> None:
    assert life[when] == refused(GONE)


@support.ours_only("native gives NULL without saying why")
@pytest.mark.parametrize("when", ["ended", "ended, early view"])
def test_F3_the_main_interpreter_is_gone(life, when: str) -> None:
    assert life[when] == refused(GONE)


LATE = """
import os, sys, types
import f_probe as m
view = m.view()
late = types.SimpleNamespace(**vars(m))  # teardown empties the module
class Last:
    def __del__(self, m=late, view=view, write=os.write, error={error}):
        try:
            m.guard()
        except error as exception:
            write(1, b"guard: %s %d\\n" % (type(exception).__name__.encode(), m.last_failure()))
        write(1, b"from view: %d %d\\n" % (m.guard_from_view(view), m.last_failure()))
        write(1, b"ensure: %d %d\\n" % (m.ensure_view(view), m.last_failure()))
        results = m.join(m.thread(("guard_from_view", view), ("failure",), ("ensure_view", view), ("failure",)))
        write(1, b"thread: %d %d %d %d\\n" % tuple(results))
sys.last_of_all = Last()
"""


def test_F3_finalizing() -> None:
    """Asked for in module teardown, attached and not: the interpreter is still there, and no guard is given."""
    name = "PythonFinalizationError" if hasattr(builtins, "PythonFinalizationError") else "RuntimeError"
    lines = events(child(LATE.format(error=name)).check())
    assert lines == [
        f"guard: {name} {FINALIZING}",
        f"from view: 0 {FINALIZING}",
        f"ensure: 0 {FINALIZING}",
        f"thread: 0 {FINALIZING} 0 {FINALIZING}",
    ]


@support.ours_only("native waits until no guard is open, and gives all that is asked for until then")
def test_F3_finalizing_while_the_wait_goes_on() -> None:
    code = """
    import atexit, os
    import f_probe as m
    view = m.view()
    inside = m.thread(("wait", 3), ("ensure_view", view), ("set", 4), ("call", lambda: m.wait(5)), ("release", "r1"))
    old = m.thread(("guard_from_view", view), ("set", 1), ("wait", 2), ("linger", 100), ("set", 3), ("wait", 4),
                   ("close", "r0"))
    asks = m.thread(("wait", 4), ("churn", view), ("failure",), ("report", "reason", "r2"), ("set", 5))
    m.wait(1)
    atexit.register(m.set, 2)
    """
    assert events(child(code).check()) == [f"reason={FINALIZING}"]


def test_F3_the_names_of_reasons() -> None:
    code = """
    import f_probe as m
    names = [m.failure_name(n) for n in range(5)]
    assert all(names) and len(set(names)) == 5, names
    assert m.failure_name(99) not in names[1:]
    """
    child(code).check()
