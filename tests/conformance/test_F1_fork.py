"""F1: a forked child is not held up by guards of threads it does not have."""

from __future__ import annotations

import sys
import textwrap

import pytest
import support
from f_tools import child, events, probe

HANGS = "the child of 3.15.2 inherits the count of guards and hangs at its exit"

# A guard of each kind is open, and stays open until the child was waited for.
OPEN = {
    "by a detached native thread": """
        t = m.thread(("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("close", "r0"))
        m.wait(1)
        """,
    "by a native thread inside Ensure": """
        t = m.thread(("ensure_view", m.view()), ("set", 1), ("call", lambda: m.wait(2)), ("release", "r0"))
        m.wait(1)
        """,
    "by the forking thread": """
        g = m.guard()
        t = m.thread(("wait", 2), ("close", g))
        """,
}

# How the child ends, and the exit status that makes.
ENDS = {"end of script": ("", 0), "sys.exit": ("sys.exit(7)", 7), "exception": ("raise ValueError", 1)}


def script(*parts: str) -> str:
    """Join parts of a child's code, whatever their indentation."""
    head = "import os, sys, atexit\nimport f_probe as m\n"
    return head + "\n".join(textwrap.dedent(part) for part in parts)


PARENT = """
pid = os.fork()
if pid:
    _, status = os.waitpid(pid, 0)
    os.write(1, b"child %d\\n" % status)
    m.set(2)
    m.join(t)
    sys.exit(0)
"""


def waited(status: int) -> str:
    return f"child {status << 8}"


@support.ours_only(HANGS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("opened", OPEN)
def test_F1_the_child_of_os_fork_ends_while_the_parent_has_guards_open(opened: str, end: str) -> None:
    leave, status = ENDS[end]
    result = child(script(OPEN[opened], PARENT, "atexit.register(os.write, 1, b'atexit\\n')", leave)).check()
    assert events(result) == ["atexit", waited(status)]


@support.ours_only(HANGS)
def test_F1_closing_a_guard_from_before_the_fork_changes_nothing_in_the_child() -> None:
    code = """
    assert m.guard_count() == 0, m.guard_count()
    m.close(old)
    assert m.guard_count() == 0, m.guard_count()
    new = m.guard()
    assert new and m.guard_count() == 1
    m.close(old2)
    assert m.guard_count() == 1
    m.close(new)
    assert m.guard_count() == 0
    """
    opened = "old, old2 = m.guard(), m.guard()\nt = m.thread(('wait', 2), ('close', old), ('close', old2))"
    result = child(script(opened, PARENT, code)).check()
    assert events(result) == [waited(0)]


@support.ours_only(HANGS)
@pytest.mark.parametrize("opened", OPEN)
def test_F1_a_guard_taken_in_the_child_is_waited_for(opened: str) -> None:
    code = """
    new = m.thread(
        ("guard_from_view", m.view()), ("set", 5), ("wait", 6), ("linger", 200), ("ensure", "r0"),
        ("call", lambda: os.write(1, b"still here\\n")), ("release", "r4"), ("close", "r0"))
    m.wait(5)
    atexit.register(m.set, 6)
    """
    result = child(script(OPEN[opened], PARENT, code)).check()
    assert events(result) == ["still here", waited(0)]


@support.ours_only(HANGS)
def test_F1_views_and_refusal_work_in_the_child() -> None:
    """The view is from before the fork, and the child's own finalization ends what it gives."""
    code = """
    late = m.thread(("set", 5), ("churn", view), ("guard_from_view", view), ("report", "late guard", "r2"), ("set", 7))
    m.wait(5)
    class Last:
        def __del__(self, wait=m.wait):
            wait(7)
    sys.last_of_all = Last()
    """
    opened = "view = m.view()\ng = m.guard()\nt = m.thread(('wait', 2), ('close', g))"
    result = child(script(opened, PARENT, code)).check()
    assert events(result) == ["late guard=0", waited(0)]


@support.ours_only(HANGS)
def test_F1_a_token_from_before_the_fork_is_released_in_the_child() -> None:
    """The forking thread is a native one inside Ensure; it is the child's only thread, and ends it by returning."""
    code = """
    def fork():
        global pid
        pid = os.fork()
    t = m.thread(("ensure_view", m.view()), ("call", fork), ("release", "r0"), ("write", "released\\n"))
    m.join(t)
    os.write(1, b"child %d\\n" % os.waitpid(pid, 0)[1])
    """
    result = child(script(code)).check()
    assert sorted(events(result)) == ["child 0", "released", "released"]


FORK_REFUSED = sys.version_info[:3] in {(3, 12, 0), (3, 12, 1), (3, 12, 2)}


@pytest.mark.skipif(FORK_REFUSED, reason="3.12.0 to 3.12.2 refuse os.fork() from the start of finalization")
@pytest.mark.parametrize("leave", ["os._exit(5)", "m.exit(5)"])
def test_F1_fork_while_finalization_waits(leave: str) -> None:
    """The child has no finalizing thread: it may take guards again, and end in either way."""
    if support.NATIVE and leave == "m.exit(5)":
        pytest.skip(f"ours only: {HANGS}")
    if leave == "m.exit(5)" and sys.version_info >= (3, 13):
        pytest.skip("CPython crashes in Py_Exit() of such a child, also without us")
    code = f"""
    def fork():
        pid = os.fork()
        if pid:
            os.write(1, b"child %d\\n" % os.waitpid(pid, 0)[1])
            return
        new = m.guard()
        assert new
        m.close(new)
        os.write(1, b"guard in the child\\n")
        {leave}
    t = m.thread(
        ("guard_from_view", m.view()), ("set", 1), ("wait", 3), ("linger", 100), ("ensure", "r0"), ("call", fork),
        ("release", "r4"), ("close", "r0"))
    m.wait(1)
    atexit.register(m.set, 3)
    """
    result = child(script(code)).check()
    assert events(result) == ["guard in the child", waited(5)]


# --- multiprocessing and subprocess: their children leave as they do today ---

MULTIPROCESSING = """
import atexit, multiprocessing, os, sys, {module} as m

def opened():
    if not m:
        return
    t = m.thread(("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("close", "r0"))
    m.wait(1)

def work(mode):
    os.write(1, b"work\\n")
    if mode == "guard":
        m.close(m.guard())
    if mode == "leak":
        m.guard()

if __name__ == "__main__":
    method, mode = sys.argv[1:]
    atexit.register(os.write, 1, b"parent's atexit\\n")
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["{module}"])
    opened()
    process = context.Process(target=work, args=(mode,))
    process.start()
    process.join()
    os.write(1, b"exitcode %d\\n" % process.exitcode)
    m.set(2)
"""


@pytest.fixture
def program(tmp_path):
    """multiprocessing re-imports the main module by its path, so it has to be a file."""
    file = tmp_path / "program.py"
    file.write_text(MULTIPROCESSING.format(module="f_probe"))
    return file


def run_program(program, *args: str) -> support.Result:
    return support.run_child([sys.executable, str(program), *args], path=[probe()])


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("mode", ["plain", "guard"])
def test_F1_multiprocessing_children_exit_while_the_parent_has_guards_open(program, method: str, mode: str) -> None:
    result = run_program(program, method, mode).check()
    assert events(result) == ["work", "exitcode 0", "parent's atexit"]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_F1_a_guard_leaked_in_a_multiprocessing_child_does_not_hold_it(program, method: str) -> None:
    """These children leave by os._exit(), which nothing waits for; 3.13+ runs atexit callbacks by hand before that."""
    result = run_program(program, method, "leak").check()
    assert events(result) == ["work", "exitcode 0", "parent's atexit"]


@pytest.mark.parametrize("preexec", ["None", "lambda: None", "lambda: m.close(m.guard())"])
def test_F1_subprocess_runs_while_guards_are_open(preexec: str) -> None:
    code = f"""
    import subprocess
    atexit.register(os.write, 1, b"atexit\\n")
    done = subprocess.run([sys.executable, "-c", "print('child', flush=True)"], preexec_fn={preexec})
    assert done.returncode == 0, done
    m.set(2)
    m.join(t)
    """
    result = child(script(OPEN["by a detached native thread"], code)).check()
    assert events(result) == ["child", "atexit"]


@support.ours_only("os._exit() in a preexec_fn's place is all that saves a child of 3.15.2")
def test_F1_a_guard_from_before_the_fork_is_closed_in_preexec_fn() -> None:
    code = """
    import subprocess
    g = m.guard()
    def before_exec():
        m.close(g)
        m.close(m.guard())
        os.write(1, b"%d open\\n" % m.guard_count())
    subprocess.run([sys.executable, "-c", ""], preexec_fn=before_exec, check=True)
    assert m.guard_count() == 1
    m.close(g)
    """
    assert events(child(script(code)).check()) == ["0 open"]


# --- fork() called by C code ---


@support.ours_only(HANGS)
@pytest.mark.parametrize("bare", [False, True], ids=["PyOS_AfterFork_Child", "fork alone"])
@pytest.mark.parametrize("opened", OPEN)
def test_F1_fork_called_from_C(opened: str, bare: bool) -> None:
    if bare and "inside Ensure" in opened:
        pytest.skip("CPython itself needs PyOS_AfterFork_Child() to forget thread states of other threads")
    parent = PARENT.replace("os.fork()", f"m.fork({bare})")
    code = "m.close(m.guard())\nassert m.guard_count() == 0\nsys.exit(4)"
    result = child(script(OPEN[opened], parent, code)).check()
    assert events(result) == [waited(4)]


def test_F1_a_bare_fork_that_leaves_by_exit_in_C() -> None:
    code = """
    pid = m.fork(True)
    if not pid:
        os._exit(3)
    os.write(1, b"child %d\\n" % os.waitpid(pid, 0)[1])
    m.set(2)
    """
    result = child(script(OPEN["by a detached native thread"], code)).check()
    assert events(result) == [waited(3)]


# --- forks while other threads are in the middle of acquiring and closing ---


@support.ours_only(HANGS)
def test_F1_forks_under_fire() -> None:
    """Whatever the other threads were doing at the fork, the child acquires, closes and ends."""
    code = f"""
    view = m.view()
    threads = [m.thread(("churn", view)) for _ in range(3)]
    for number in range({support.tries(15)}):
        pid = os.fork()
        if not pid:
            new = m.guard()
            assert new
            t = m.thread(("guard_from_view", view), ("close", "r0"))
            assert m.join(t)[0]
            m.close(new)
            assert m.guard_count() == 0
            sys.exit(9)
        assert os.waitpid(pid, 0)[1] == 9 << 8
    os.write(1, b"forked\\n")
    """
    assert events(child(script(code)).check()) == ["forked"]


@support.ours_only(HANGS)
def test_F1_grandchildren() -> None:
    code = """
    first = m.guard()
    pid = os.fork()
    if not pid:
        second = m.guard()
        pid = os.fork()
        if not pid:
            m.close(second)
            m.close(first)
            assert m.guard_count() == 0
            sys.exit(3)
        status = os.waitpid(pid, 0)[1]
        m.close(second)
        sys.exit(status >> 8)
    os.write(1, b"child %d\\n" % os.waitpid(pid, 0)[1])
    m.close(first)
    """
    assert events(child(script(code)).check()) == [waited(3)]
