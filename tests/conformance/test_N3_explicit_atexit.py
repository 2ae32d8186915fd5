"""N3: running or clearing the atexit callbacks by hand, in an interpreter that lives on, costs nothing."""

from __future__ import annotations

import pytest
import support
from f_tools import HERE, child, events, probe

BY_HAND = {
    "run": "atexit._run_exitfuncs()",
    "clear": "atexit._clear()",
    "run twice": "atexit._run_exitfuncs(); atexit._run_exitfuncs()",
    "clear twice": "atexit._clear(); atexit._clear()",
    "run, clear": "atexit._run_exitfuncs(); atexit._clear()",
    "clear, run": "atexit._clear(); atexit._run_exitfuncs()",
    "run, collect": "atexit._run_exitfuncs(); import gc; gc.collect()",
    "run below frames": "(lambda: [atexit._run_exitfuncs() for _ in range(3)])()",
    "run on a thread": "import threading; t = threading.Thread(target=atexit._run_exitfuncs); t.start(); t.join()",
    "clear on a thread": "import threading; t = threading.Thread(target=atexit._clear); t.start(); t.join()",
    "re-import": "del sys.modules['f_probe']; atexit._clear(); import f_probe as m",
}

# Afterwards guards are given, attached and not, and the real end waits for one: with nothing else in atexit, and with
# something. `lingers` gives an end that does not wait the time to show it.
AFTERWARDS = """
view = m.view()
guard = m.guard()
assert guard
m.close(guard)
assert all(m.join(m.thread(("guard_from_view", view), ("close", "r0")))[:1])
m.thread(
    ("guard_from_view", view), ("set", 1), {until} ("linger", 200), ("ensure", "r0"),
    ("call", lambda: os.write(1, b"still here\\n")), ("release", "r{token}"), ("close", "r0"))
m.wait(1)
{register}
"""
ENDS = {
    "nothing registered": AFTERWARDS.format(until="", token=3, register=""),
    "a callback registered": AFTERWARDS.format(until='("wait", 2),', token=4, register="atexit.register(m.set, 2)"),
}
HEAD = "import atexit, os, sys\nimport f_probe as m\n"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("by_hand", BY_HAND)
def test_N3_the_wait_is_not_lost(by_hand: str, end: str) -> None:
    assert events(child(HEAD + BY_HAND[by_hand] + "\n" + ENDS[end]).check()) == ["still here"]


@pytest.mark.parametrize("by_hand", BY_HAND)
def test_N3_while_a_guard_is_open(by_hand: str) -> None:
    """The guard is older than the call by hand, and is closed only after it: the call must not wait for it."""
    code = HEAD + "old = m.guard()\n" + BY_HAND[by_hand] + "\nm.close(old)\n" + ENDS["a callback registered"]
    assert events(child(code).check()) == ["still here"]


@pytest.mark.parametrize("by_hand", ["run", "clear", "run twice"])
def test_N3_while_other_threads_take_guards(by_hand: str) -> None:
    """A thread that takes guards all the time is not refused for good by the call."""
    code = f"""
view = m.view()
stop = False
def run():
    m.set(3)
    while not stop:
        m.close(m.guard())
import threading
thread = threading.Thread(target=run)
thread.start()
m.wait(3)
for _ in range(20):
    {BY_HAND[by_hand]}
stop = True
thread.join()
os.write(1, b"joined\\n")
"""
    assert events(child(HEAD + code).check()) == ["joined"]


@pytest.mark.parametrize("config", ["legacy", "isolated"])
@pytest.mark.parametrize("by_hand", ["run", "clear", "run twice", "clear, run"])
def test_N3_in_a_subinterpreter(by_hand: str, config: str) -> None:
    """mod_wsgi and uWSGI run a subinterpreter's callbacks before they end it."""
    inside = HEAD + BY_HAND[by_hand] + "\n" + ENDS["a callback registered"]
    code = f"""
import f_sub, os
import f_probe as m
number = f_sub.create("{config}")
f_sub.run(number, {inside!r})
f_sub.destroy(number)
m.mark_finalized()
os.write(1, b"destroyed\\n")
"""
    assert events(child(code, path=[probe(), HERE]).check()) == ["still here", "destroyed"]


@pytest.mark.parametrize("by_hand", ["run", "clear"])
def test_N3_a_subinterpreters_call_leaves_the_main_interpreter_alone(by_hand: str) -> None:
    code = f"""
import f_sub
number = f_sub.create()
f_sub.run(number, {HEAD + BY_HAND[by_hand]!r})
f_sub.destroy(number)
"""
    code = HEAD + code + ENDS["a callback registered"]
    assert events(child(code, path=[probe(), HERE]).check()) == ["still here"]


def test_N3_run_by_an_atexit_callback() -> None:
    """Nested in the real run: odd, but nothing is lost and nothing hangs. (Registered itself, it recurses for ever.)"""
    code = "nested = [1]\natexit.register(lambda: nested and (nested.clear(), atexit._run_exitfuncs()))\n"
    assert events(child(HEAD + code + ENDS["nothing registered"]).check()) == ["still here"]


def test_N3_cleared_by_an_atexit_callback() -> None:
    code = "atexit.register(atexit._clear)\n"
    assert events(child(HEAD + code + ENDS["nothing registered"]).check()) == ["still here"]


def test_N3_callbacks_of_others_run_as_often_as_without_us() -> None:
    code = """
atexit.register(os.write, 1, b"one\\n")
atexit._run_exitfuncs()
atexit.register(os.write, 1, b"two\\n")
atexit._run_exitfuncs()
atexit.register(os.write, 1, b"three\\n")
atexit._clear()
atexit.register(os.write, 1, b"four\\n")
"""
    assert events(child(HEAD + code).check()) == ["one", "two", "four"]


@support.ours_only("native waits in finalization itself, where no call by hand can reach it")
@pytest.mark.parametrize("by_hand", ["run", "clear"])
def test_N3_giving_up_still_works_at_the_real_end(by_hand: str) -> None:
    code = HEAD + BY_HAND[by_hand] + "\nm.guard()\n"
    result = child(code, env={"PEP788_GIVE_UP_AFTER": "0.2"}).check()
    assert result.err.startswith("pep788: ")
