"""F6: a foreign thread that calls back often keeps its thread state between calls.

Scripts of native threads (f_probe.c) say what the thread does; `kept(...)` is EnsureKept, some steps, ReleaseKept.
"""

from __future__ import annotations

import sys
import textwrap
from typing import Sequence

import pytest
import support
from f_tools import FINALIZING, HERE, child, events, probe

PRELUDE = """
import contextvars, gc, os, sys, threading, time
import f_probe as m
view = m.view()
class Script:
    def __init__(self):
        self.steps = []
    def __call__(self, *step):
        self.steps.append(step)
        return "r%d" % (len(self.steps) - 1)
    def kept(self, *inner, view=view):
        token = self("ensure_kept", view)
        results = [self(*step) for step in inner]
        self("release_kept", token)
        return results[0] if results else None
    def start(self):
        return m.thread(*self.steps)
    def run(self):
        results = m.join(self.start())
        return lambda register: results[int(register[1:])]
class Noisy:
    def __init__(self, name):
        self.name, self.thread = name, threading.get_ident()
    def __del__(self, write=os.write, ident=threading.get_ident, ending=sys.is_finalizing):
        where = "its thread" if ident() == self.thread else "another"
        write(1, ("del %s by %s%s\\n" % (self.name, where, ", too late" if ending() else "")).encode())
local = threading.local()
def leave(name="x"):
    local.noisy = Noisy(name)
"""


def kept(code: str, path: Sequence = (), **options) -> support.Result:
    return child(PRELUDE + textwrap.dedent(code), path=[probe(), HERE, *path], **options).check()


def test_F6_the_same_state_from_call_to_call() -> None:
    """Thread-locals, context and threading's object too; in between the thread has no state at all."""
    code = """
    variable = contextvars.ContextVar("variable", default=0)
    threads = []
    def look():
        local.calls = getattr(local, "calls", 0) + 1
        variable.set(variable.get() + 1)
        threads.append(threading.current_thread())
        assert local.calls == variable.get() == len(threads)
        return True
    s = Script()
    states, looks, bound = [], [], []
    for _ in range(5):
        token = s("ensure_kept", view)
        states.append(s("state"))
        looks.append(s("call", look))
        s("release_kept", token)
        bound.append(s("bound"))
    r = s.run()
    assert len(set(map(r, states))) == 1, list(map(r, states))
    assert all(map(r, looks))
    assert not any(map(r, bound))
    assert all(thread is threads[0] for thread in threads)
    os.write(1, b"end\\n")
    """
    assert events(kept(code)) == ["end"]


def test_F6_works_and_refuses_wherever_it_runs() -> None:
    """Whether anything is kept or not: attached inside, detached outside, refused at the end, with the reason."""
    code = """
    s = Script()
    called = [s.kept(("call", lambda: True)) for _ in range(3)]
    r = s.run()
    assert all(map(r, called))
    s = Script()
    rounds = s("churn_kept", view, 0)
    s("report", "reason", s("failure"))
    t = s.start()
    class Last:
        def __del__(self, join=m.join):
            join(t)
    sys.last_of_all = Last()
    """
    assert events(kept(code)) == [f"reason={FINALIZING}"]


def test_F6_deleted_at_thread_exit_by_that_thread() -> None:
    code = """
    s = Script()
    s.kept(("call", leave))
    s.kept(("call", gc.collect))
    s("write", "exits\\n")
    s.run()
    os.write(1, b"end\\n")
    """
    assert events(kept(code)) == ["exits", "del x by its thread", "end"]


def test_F6_does_not_hold_up_the_end_and_is_deleted_by_it() -> None:
    """The thread lives on, outside Python; Noisy goes while Python is all there."""
    code = """
    ready = Script()
    ready.kept(("call", leave))
    ready("set", 1)
    ready("wait", 9)
    ready.start()
    m.wait(1)
    import atexit
    atexit.register(os.write, 1, b"callback\\n")
    """
    result = kept(code)
    assert events(result) == ["callback", "del x by another"]
    assert result.err == ""


def test_F6_a_destructor_of_a_kept_state_may_do_what_it_likes() -> None:
    code = f"\n    NATIVE = {support.NATIVE}\n" + """
    class Busy(Noisy):
        def __del__(self, up=Noisy.__del__, start=m.thread, join=m.join, view=view):
            if NATIVE:  # has no seam: states go in an atexit callback, where guards are still given
                assert join(start(("ensure_kept", view), ("release_kept", "r0")))[0]
            else:
                assert not join(start(("ensure_kept", view)))[0]
            import json, decimal
            up(self)
            raise ValueError("reported, not raised")
    sys.unraisablehook = lambda unraisable: os.write(1, b"reported\\n")
    def busy():
        local.noisy = Busy("x")
    s = Script()
    s.kept(("call", busy))
    s("set", 1)
    s("wait", 9)
    s.start()
    m.wait(1)
    """
    assert events(kept(code)) == ["del x by another", "reported"]


def test_F6_destructors_at_thread_exit_while_finalization_waits() -> None:
    """A guard is open and the thread counts as inside, so they may Ensure again."""
    code = """
    class Nested(Noisy):
        def __del__(self, up=Noisy.__del__, ensure=m.ensure_view, release=m.release, view=view):
            for _ in range(3):
                token = ensure(view)
                assert token
                release(token)
            up(self)
    def nested():
        local.noisy = Nested("x")
    s = Script()
    s.kept(("call", nested))
    s.run()
    os.write(1, b"end\\n")
    """
    assert events(kept(code)) == ["del x by its thread", "end"]


NESTINGS = {
    "itself": ("ensure_kept", "release_kept"),
    "EnsureFromView": ("ensure_view", "release"),
    "PyGILState_Ensure": ("gil_ensure", "gil_release"),
}


@pytest.mark.parametrize("inner", NESTINGS)
@pytest.mark.parametrize("outer", NESTINGS)
@pytest.mark.parametrize("between", ["attached", "in ALLOW_THREADS"])
def test_F6_nests_with(outer: str, inner: str, between: str) -> None:
    """Inside whatever attached, in either order, EnsureKept uses the state that is there."""
    code = f"""
    outer, leave_outer = {NESTINGS[outer]!r}
    inner, leave_inner = {NESTINGS[inner]!r}
    def args(name):
        return () if name == "gil_ensure" else (view,)
    s = Script()
    s.kept()
    first = s.kept(("state",))
    a = s(outer, *args(outer))
    one = s("state")
    if {between != "attached"}:
        detached = s("detach")
    b = s(inner, *args(inner))
    two = s("state")
    called = s("call", lambda: True)
    s(leave_inner, b)
    if {between != "attached"}:
        s("attach", detached)
    three = s("state")
    s(leave_outer, a)
    bound = s("bound")
    again = s.kept(("state",))
    r = s.run()
    assert r(one) == r(two) == r(three) and r(called)
    assert (r(one) == r(first)) == (outer == "ensure_kept")
    assert r(bound) == 0 and r(again) == r(first)
    os.write(1, b"end\\n")
    """
    assert events(kept(code)) == ["end"]


def test_F6_on_a_thread_that_has_a_state_that_one_is_used() -> None:
    code = """
    def inside():
        token = m.ensure_kept(view)
        local.here = threading.current_thread()
        m.release_kept(token)
    inside()
    assert local.here is threading.main_thread()
    t = threading.Thread(target=inside)
    t.start()
    t.join()
    s = Script()
    token = s("gil_ensure")
    mine = s("state")
    detached = s("detach")
    theirs = s.kept(("state",))
    s("attach", detached)
    s("gil_release", token)
    r = s.run()
    assert r(mine) == r(theirs)
    os.write(1, b"end\\n")
    """
    assert events(kept(code)) == ["end"]


SUB = """
import f_sub
number = f_sub.create()
read, write = os.pipe()
f_sub.run(number, f'''if True:
    import os
    import f_probe as m
    class Noisy:
        def __del__(self, write=os.write):
            write(1, b"del in sub\\\\n")
    import threading
    local = threading.local()
    def leave():
        local.noisy = Noisy()
    os.write({write}, b"%d %d" % (m.view(), id(leave)))
''')
sub, leave_in_sub = map(int, os.read(read, 100).split())
"""


# _xxsubinterpreters (up to 3.12) wants an interpreter to have one thread state, so nothing is kept in its own; those of
# Py_NewInterpreter are in f_kept.c.
KEPT_IN_SUB = sys.version_info >= (3, 13)


def test_F6_two_interpreters_on_one_thread() -> None:
    code = SUB + textwrap.dedent("""
    s = Script()
    states = {"main": [], "sub": []}
    for _ in range(4):
        states["main"].append(s.kept(("state",)))
        states["sub"].append(s.kept(("state",), view=sub))
    # inside one another the inner one is made for the occasion, and the outer is as before
    token = s("ensure_kept", sub)
    outer = s("state")
    inner = s.kept(("state",))
    after = s("state")
    s("release_kept", token)
    states["main"].append(s.kept(("state",)))
    r = s.run()
    assert len(set(map(r, states["main"]))) == 1
    assert r(outer) == r(after) != r(inner)
    if sys.version_info >= (3, 13):
        assert set(map(r, states["sub"])) == {r(outer)}
    f_sub.destroy(number)
    os.write(1, b"end\\n")
    """)
    assert events(kept(code)) == ["end"]


AFTER = ["ensure_kept", "ensure_view", "gil_ensure"]


@pytest.mark.parametrize("after", AFTER)
def test_F6_a_subinterpreter_ends_and_its_threads_go_on(after: str) -> None:
    """Up to 3.13 Py_EndInterpreter aborts on any thread state that is left."""
    code = SUB + textwrap.dedent(f"""
    s = Script()
    s.kept()
    s.kept(("call_at", leave_in_sub), view=sub)
    s("set", 1)
    s("wait", 2)
    refused = s("ensure_kept", sub)
    for _ in range(3):
        token = s({after!r}, *(() if {after!r} == "gil_ensure" else (view,)))
        called = s("call", lambda: os.write(1, b"called\\n") > 0)
        s({dict(NESTINGS.values())[after]!r}, token)
    t = s.start()
    m.wait(1)
    f_sub.destroy(number)
    os.write(1, b"destroyed\\n")
    m.set(2)
    results = m.join(t)
    assert not results[int(refused[1:])]
    os.write(1, b"end\\n")
    """)
    out = events(kept(code))
    assert [line for line in out if line != "del in sub"] == ["destroyed", "called", "called", "called", "end"]
    assert out[0] == "del in sub"


def test_F6_subinterpreters_come_and_go_under_one_thread() -> None:
    """One thread keeps a state in each of them in turn; the view of one that ended refuses for ever."""
    code = """
    import f_sub
    read, write = os.pipe()
    views = []
    turns = range(6)
    numbers = [f_sub.create() for turn in turns]
    for number in numbers:
        f_sub.run(number, f"import os, f_probe as m\\nos.write({write}, b'%d' % m.view())")
        views.append(int(os.read(read, 100)))
    s = Script()
    tokens = []
    for turn in turns:
        for _ in range(3):
            s.kept(view=views[turn])
            s.kept(("call", int))
        s("set", 1 + turn)
        s("wait", 30 + turn)
        tokens.append(s("ensure_kept", views[turn]))
    t = s.start()
    for turn in turns:
        m.wait(1 + turn)
        f_sub.destroy(numbers[turn])
        m.set(30 + turn)
    results = m.join(t)
    assert not any(results[int(token[1:])] for token in tokens)
    os.write(1, b"end\\n")
    """
    assert events(kept(code)) == ["end"]


@pytest.mark.skipif(not KEPT_IN_SUB, reason="nothing is kept there")
def test_F6_a_subinterpreter_that_is_left_to_the_end() -> None:
    code = SUB + textwrap.dedent("""
    s = Script()
    s.kept(("call_at", leave_in_sub), view=sub)
    s.kept(("call", leave))
    s("set", 1)
    s("wait", 9)
    s.start()
    m.wait(1)
    """)
    assert sorted(events(kept(code))) == ["del in sub", "del x by another"]


def test_F6_a_subinterpreter_that_is_left_to_the_end_does_not_abort() -> None:
    code = SUB + textwrap.dedent("""
    s = Script()
    s.kept(view=sub)
    s.kept()
    s("set", 1)
    s("wait", 9)
    s.start()
    m.wait(1)
    """)
    kept(code)


def test_F6_two_copies_of_the_header() -> None:
    """Each keeps its own; the seam of one deletes both."""
    code = """
    import f_other
    for module, name in (m, "x"), (f_other, "y"):
        module.thread(("ensure_kept", module.view()), ("call", lambda: leave(name)), ("release_kept", "r0"), ("set", 1),
                      ("wait", 9))
        module.wait(1)
    """
    assert sorted(events(kept(code, path=[probe("f_other")]))) == ["del x by another", "del y by another"]


@pytest.mark.parametrize("how", ["os.fork()", "m.fork(False)"])
def test_F6_fork_while_it_is_attached(how: str) -> None:
    """The child's only thread goes on with the same state, also after its Release; it ends by returning."""
    code = f"""
    pids = []
    def fork():
        pids.append({how})
        return pids[-1] == 0
    s = Script()
    s.kept(("call", leave))
    token = s("ensure_kept", view)
    before = s("state")
    s("call", fork)
    s("release_kept", token)
    states = [s.kept(("state",)) for _ in range(3)]
    r = s.run()
    assert len(set(map(r, (before, *states)))) == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
    os.write(1, b"parent\\n")
    """
    assert events(kept(code)).count("parent") == 1


@pytest.mark.skipif(
    (3, 11) <= sys.version_info < (3, 13), reason="PyThreadState_New aborts in a child whose last state was deleted"
)
@pytest.mark.parametrize("how", ["os.fork()", "m.fork(False)"])
def test_F6_fork_while_it_is_idle(how: str) -> None:
    """CPython deletes every state but the attached one in the child; there a new one is made and kept."""
    code = f"""
    pids = []
    def fork():
        pids.append({how})
        return pids[-1] == 0
    def end_of_child():
        if pids[-1] == 0:
            os._exit(7)
        return True
    s = Script()
    s.kept(("call", leave))
    s.kept()
    token = s("gil_ensure")
    s("call", fork)
    s("gil_release", token)
    for _ in range(3):
        s.kept(("call", int))
    s.kept(("call", end_of_child))
    s.run()
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
    os.write(1, b"parent\\n")
    """
    assert "parent" in events(kept(code))


def test_F6_fork_with_kept_states_of_other_threads() -> None:
    code = """
    for n in range(4):
        s = Script()
        s.kept(("call", leave))
        s("set", 1 + n)
        s("wait", 30)
        s.start()
        m.wait(1 + n)
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        s = Script()
        s.kept(("call", int))
        s.kept(("call", int))
        s.run()
    os.write(1, b"parent\\n" if pid else b"child\\n")
    """
    out = events(kept(code))
    assert [line for line in out if not line.startswith("del")] == ["child", "parent"]


def test_F6_an_explicit_run_of_the_callbacks() -> None:
    """N3: states deleted early are made again."""
    code = """
    import atexit
    s = Script()
    s.kept(("call", leave))
    s("set", 1)
    s("wait", 2)
    called = [s.kept(("call", int), ("state",)) for _ in range(3)]
    s("set", 3)
    s("wait", 4)
    t = s.start()
    m.wait(1)
    atexit._run_exitfuncs()
    m.close(m.guard())
    m.set(2)
    m.wait(3)
    atexit._clear()
    m.set(4)
    m.join(t)
    os.write(1, b"end\\n")
    """
    assert "end" in events(kept(code))


@support.ours_only("3.15.2 never gives up")
def test_F6_giving_up_leaves_alone_what_is_attached() -> None:
    """One thread is inside, another idle: only the idle one's state is deleted by us, and the process ends."""
    code = """
    s = Script()
    s.kept(("call", leave))
    s("set", 1)
    s("wait", 9)
    s.start()
    s = Script()
    s.kept()
    s("ensure_kept", view)
    s("detach")
    s("set", 2)
    s("wait", 9)
    s.start()
    m.wait(1)
    m.wait(2)
    """
    result = kept(code, env={"PEP788_GIVE_UP_AFTER": "0.3"})
    assert events(result) == ["del x by another"]
    assert "gave up waiting" in result.err
    assert ": 1 open interpreter guard\n" in result.err and "  1 of module f_probe" in result.err


USED_WHEN_THE_END_COMES = """
def callback():
    m.set(1)
    while threading.main_thread().is_alive():
        time.sleep(0.001)
    m.close(m.guard_from_view(view))
    os.write(1, b"finished\\n")
s = Script()
for _ in range({calls} - 1):
    s.kept()
s.kept(("call", callback))
s.start()
m.wait(1)
"""


@pytest.mark.parametrize("calls", [1, 2])
def test_F6_the_end_waits_for_a_state_in_use(calls: int) -> None:
    """From the second call on no guard is taken until finalization begins."""
    assert events(kept(USED_WHEN_THE_END_COMES.format(calls=calls))) == ["finished"]


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("trace", ["", "1"])
@support.ours_only("native guards are not counted")
def test_F6_a_state_in_use_counts_as_a_guard(calls: int, trace: str) -> None:
    code = f"""
    s = Script()
    for _ in range({calls} - 1):
        s.kept()
    s.kept(("call", lambda: os.write(1, b"%d\\n" % m.guard_count())))
    s.run()
    os.write(1, b"%d\\n" % m.guard_count())
    """
    assert events(kept(code, env={"PEP788_TRACE": trace})) == ["1", "0"]


@pytest.mark.parametrize("calls, function", [(1, "PyThreadState_Ensure"), (2, "Pep788_EnsureKept")])
@support.ours_only("says it in other words")
def test_F6_released_twice_is_fatal(calls: int, function: str) -> None:
    """The token of a first call is a guard's; from the second one on it is the kept state's own."""
    code = f"""
    s = Script()
    for _ in range({calls} - 1):
        s.kept()
    token = s("ensure_kept", view)
    s("release_kept", token)
    s("release_kept", token)
    s.run()
    """
    result = child(PRELUDE + textwrap.dedent(code), path=[probe(), HERE])
    assert result.returncode < 0 and f"called more often than {function}" in result.err, result.describe()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="membarrier is Linux's")
@pytest.mark.parametrize("when", ["never", "later"])
@pytest.mark.parametrize("script", ["in use", "churn"])
def test_F6_without_membarrier(script: str, when: str) -> None:
    """It may be missing (old kernels, gVisor) or be forbidden by a filter that is put up later."""
    library = support.build_library("no_membarrier", [HERE / "no_membarrier.c"], ldflags=["-ldl"])
    churn = """
    for _ in range(3):
        s = Script()
        s("churn_kept", view, 200)
        s.start()
    """
    code = churn if script == "churn" else USED_WHEN_THE_END_COMES.format(calls=2)
    for _ in range(support.tries(3)):
        result = kept(code, env={"LD_PRELOAD": str(library), "NO_MEMBARRIER": when})
        assert (events(result), result.err) == ([] if script == "churn" else ["finished"], "")


def test_F6_thousands_of_short_threads() -> None:
    """Each leaves nothing behind."""
    code = """
    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    m.kept_threads(view, 1000, 3)
    before = resident()
    m.kept_threads(view, 5000, 3)
    grown = resident() - before
    assert grown < 500_000, grown
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    kept(code, timeout=120)


def test_F6_threads_that_exit_while_finalization_runs() -> None:
    """Whoever comes first deletes: thread exit or the seam."""
    code = """
    def script():
        s = Script()
        s("churn_kept", view, 1 + int.from_bytes(os.urandom(2), "big") % 300)
        return s
    for _ in range(12):
        script().start()
    """
    for _ in range(support.tries(30)):
        assert kept(code).err == ""


@support.ours_only("threads that attach without pause starve the exit of 3.15.2 (F9)")
def test_F6_threads_that_call_until_refused() -> None:
    code = """
    for _ in range(3):
        s = Script()
        s("churn_kept", view, 0)
        s.start()
    """
    for _ in range(support.tries(10)):
        assert kept(code).err == ""


def test_F6_subinterpreters_end_while_threads_exit() -> None:
    code = SUB + textwrap.dedent("""
    threads = []
    for _ in range(8):
        s = Script()
        s("churn_kept", sub, 1 + int.from_bytes(os.urandom(1), "big"))
        s("churn_kept", view, 2)
        threads.append(s.start())
    while True:
        try:
            f_sub.destroy(number)
            break
        except RuntimeError:  # 3.9-3.11: a thread is attached there at the moment
            time.sleep(0.001)
    for t in threads:
        m.join(t)
    os.write(1, b"end\\n")
    """)
    for _ in range(support.tries(15)):
        assert events(kept(code)) == ["end"]


def test_F6_cycles_of_initialization_with_the_same_threads() -> None:
    program = support.build_program("f_kept", [HERE / "f_kept.c"])
    assert support.run_child([program]).check().lines() == ["done"]
