"""F9: other threads cannot keep finalization waiting by taking new guards."""

from __future__ import annotations

import pytest
import support
from f_tools import HERE, child, events, probe

STARVES = "3.15.2 waits until no guard is open at one instant, which never comes"

FOREIGN = """
import atexit, os, sys
import f_probe as m
view = m.view()
for n in range(4):
    m.thread(("guard_from_view", view), ("set", n), ("close", "r0"), ("{loop}", view), ("guard_from_view", view),
             ("report", "then", "r4"))
for n in range(4):
    m.wait(n)
"""


@support.ours_only(STARVES)
@pytest.mark.parametrize("loop", ["churn", "chain"])
def test_F9_four_native_threads_through_a_view(loop: str) -> None:
    """churn closes before it takes the next; chain takes the next before it closes: one is open at every instant."""
    for _ in range(support.tries(4)):
        result = child(FOREIGN.format(loop=loop)).check()
        assert set(events(result)) <= {"then=0"}  # the process may be gone before a thread reports


ATTACHED = """
import atexit, os, sys, threading
import f_probe as m
started = threading.Semaphore(0)
def run():
    first = True
    while True:
        try:
            guard = m.guard()
        except RuntimeError:  # PythonFinalizationError
            return
        {body}
        if first:
            started.release()
            first = False
for _ in range({threads}):
    threading.Thread(target=run, daemon=True).start()
for _ in range({threads}):
    started.acquire()
"""

@support.ours_only(STARVES)
@pytest.mark.parametrize("threads", [1, 4])
def test_F9_attached_daemon_threads(threads: int) -> None:
    for _ in range(support.tries(4)):
        child(ATTACHED.format(body="m.close(guard)", threads=threads)).check()


@support.ours_only(STARVES)
def test_F9_an_attached_daemon_thread_that_takes_the_next_before_it_closes() -> None:
    body = "if not first: m.close(held)\n        held = guard"
    code = ATTACHED.format(body=body, threads=1).replace("            return\n", "            return m.close(held)\n")
    for _ in range(support.tries(4)):
        child(code).check()


@support.ours_only(STARVES)
def test_F9_ensure_from_view_without_pause() -> None:
    code = """
    import f_probe as m
    view = m.view()
    import threading
    def attached_loop(n):
        while True:
            token = m.ensure_view(view)
            if not token:
                return
            m.set(n)
            m.release(token)
    for n in range(4):
        threading.Thread(target=attached_loop, args=(n,), daemon=True).start()
    for n in range(4):
        m.wait(n)
    """
    for _ in range(support.tries(4)):
        child(code).check()


def test_F9_the_holder_of_an_old_guard_takes_what_it_needs() -> None:
    """All of it after atexit callbacks have run, while finalization waits for that guard."""
    code = """
    import atexit, os, sys
    import f_probe as m
    view = m.view()
    def work():
        guard = m.guard()
        token = m.ensure(guard)
        inner = m.ensure_view(view)
        assert guard and token and inner
        m.release(inner)
        m.release(token)
        m.close(guard)
        again = m.guard_from_view(view)
        assert again
        m.close(again)
        import json.tool
        os.write(1, b"worked\\n")
    m.thread(
        ("guard_from_view", view), ("set", 1), ("wait", 2), ("linger", 100), ("ensure", "r0"), ("call", work),
        ("guard_from_current",), ("close", "r6"), ("release", "r4"),
        ("guard_from_view", view), ("ensure", "r9"), ("call", work), ("release", "r10"), ("close", "r9"),
        ("close", "r0"))
    m.wait(1)
    atexit.register(m.set, 2)
    """
    assert events(child(code).check()) == ["worked", "worked"]


@support.ours_only("native 3.15 has one phase only")
def test_F9_the_two_phases() -> None:
    """A new guard, taken while an old one is open, is honoured; when the old one is closed, a thread that holds
    nothing is refused, and one that is inside Ensure still takes what it needs to finish."""
    code = """
    import atexit, os, sys
    import f_probe as m
    view = m.view()
    def finish():
        m.wait(5)  # a thread that holds nothing was refused
        guard = m.guard()
        token = m.ensure_view(view)
        assert guard and token
        m.release(token)
        m.close(guard)
        os.write(1, b"finished inside Ensure\\n")
    old = m.thread(
        ("guard_from_view", view), ("set", 1), ("wait", 2), ("linger", 200), ("set", 3), ("wait", 4), ("close", "r0"))
    new = m.thread(("wait", 3), ("ensure_view", view), ("set", 4), ("call", finish), ("release", "r1"))
    none = m.thread(
        ("wait", 4), ("churn", view), ("failure",), ("report", "refused", "r2"), ("set", 5))
    m.wait(1)
    atexit.register(m.set, 2)
    """
    assert events(child(code).check()) == ["refused=2", "finished inside Ensure"]


@support.ours_only(STARVES)
def test_F9_subinterpreters_end_under_fire() -> None:
    code = """
    import f_sub, os
    import f_probe as m
    for config in ("legacy", "isolated"):
        number = f_sub.create(config)
        f_sub.run(number, '''if True:
            import f_probe as m
            view = m.view()
            for n in range(3):
                m.thread(("guard_from_view", view), ("set", n), ("close", "r0"), ("churn", view))
            for n in range(3):
                m.wait(n)
        ''')
        f_sub.destroy(number)
        os.write(1, config.encode() + b"\\n")
    """
    assert events(child(code, path=[probe(), HERE]).check()) == ["legacy", "isolated"]


@support.ours_only(STARVES)
@pytest.mark.parametrize("loop", ["churn", "chain"])
@pytest.mark.parametrize("config", ["legacy", "isolated"])
def test_F9_being_inside_main_is_not_being_inside_the_subinterpreter(loop: str, config: str) -> None:
    """Only who is inside an Ensure of the interpreter that ends may take more of its guards.

    RED before on 3.9, 3.11 and 3.14 (chain): the subinterpreter never ended.
    """
    code = f"""
    import f_sub, os
    number = f_sub.create("{config}")
    f_sub.run(number, '''if True:
        import f_probe as m
        main, sub = m.main_view(), m.view()
        for n in range(4):
            m.thread(
                ("ensure_view", main), ("detach",), ("guard_from_view", sub), ("set", n), ("close", "r2"),
                ("{loop}", sub), ("attach", "r1"), ("release", "r0"), ("set", 10 + n))
        for n in range(4):
            m.wait(n)
    ''')
    f_sub.destroy(number)
    os.write(1, b"destroyed\\n")
    import f_probe as m
    for n in range(4):
        m.wait(10 + n)
    """
    for _ in range(support.tries(2)):
        assert events(child(code, path=[probe(), HERE]).check()) == ["destroyed"]
