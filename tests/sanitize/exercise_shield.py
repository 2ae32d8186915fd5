"""Run by run.py with a sanitized pep788._shield: every replaced function, then exit while threads call.

The argument says how it ends: `exit` with callbacks in flight and daemon threads in C++ frames, `late` with a callback
after the interpreter is gone. Prints what was done, so that a part that did not run is seen.
"""

import os
import sys
import threading
from typing import Any, Callable

import unmodified  # type: ignore[import-not-found]
from pep788 import _shield, shield

TIMES = 20


def call(ways: "list[Callable[[Callable[[], None]], None]]") -> None:
    """A callback of each kind, several times, from threads that end."""
    for _ in range(TIMES):
        done = threading.Semaphore(0)
        for way in ways:
            way(done.release)
        for _ in ways:
            done.acquire()


def in_child() -> None:
    """A child of a fork goes on while a thread of its parent is inside."""
    go, inside = threading.Event(), threading.Event()

    def callback() -> None:
        inside.set()
        go.wait()

    unmodified.call_soon(callback)
    inside.wait()
    child = os.fork()
    if child == 0:
        call(WAYS)
        sys.exit(0)
    status = os.waitpid(child, 0)[1]
    assert len(_shield.inside()) == 1, _shield.inside()
    go.set()
    if status != 0:
        raise RuntimeError(f"the child ended with status {status}")


def in_subinterpreter() -> None:
    interpreters: Any
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    new = interpreters.create()
    failure = interpreters.run_string(new, "import pep788.shield as s; s.enable_from_environment(); s.report()")
    if failure is not None:
        raise RuntimeError(failure)
    interpreters.destroy(new)


def stay() -> None:
    """Daemon threads that come back from C++ all the time."""
    while True:
        unmodified.rest()


def call_for_ever() -> None:
    unmodified.call_soon(call_for_ever)


WAYS = [unmodified.call_soon, unmodified.call_own_state, unmodified.call_and_forget]
call(WAYS)
shield.enable()
call([*WAYS, unmodified.call_kept_state])
print("protected:", sum(entry.protected for entry in shield.report().entries))

stop = threading.Event()


def switch() -> None:
    """Off and on, while threads run through the slots that are written."""
    while not stop.is_set():
        assert shield.disable()
        shield.enable()


switching = threading.Thread(target=switch)
switching.start()
call(WAYS)
stop.set()
switching.join()
print("switched")
in_child()
print("forked")
in_subinterpreter()
print("subinterpreter")
if sys.argv[1] == "late":
    unmodified.call_late(print)
else:
    for _ in range(4):
        unmodified.call_soon(call_for_ever)
        unmodified.call_own_state(call_for_ever)
        threading.Thread(target=stay, daemon=True).start()
print("exiting", flush=True)
