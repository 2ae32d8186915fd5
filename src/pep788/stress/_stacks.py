"""Stacks of all threads of a process that has crashed and waits for us, or hangs.

pystack (Python and native frames) if it is installed, else gdb, else only what the kernel tells of the threads.
faulthandler's and the probe's stacks are in the process's own output and record.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence

from ._record import Record

SECONDS = 60.0
LIMIT = 100_000
TOP_FRAMES = 4
"""As many frames tell one failure from another."""

NO_TOOL = "No native stacks: install pystack (pip install pystack) or gdb."
NOT_ALLOWED = "No native stacks: pystack or gdb could not look at the process; is ptrace allowed (container, seccomp)?"

_SIGNAL_FRAMES = re.compile(
    r"^(on_fatal|faulthandler\w*|raise|gsignal|abort|pthread_kill|__pthread_kill\w*|__restore_rt|killpg|kill) "
)
_UNWINDER = re.compile(r"\? \((libc|ld-musl)|.*\((libgcc_s|libstdc\+\+|libc\+\+)|pthread_exit ")


def top(frames: Sequence[str]) -> tuple[str, ...]:
    """The frames below those of the probe and of the handling of a signal."""
    last = max((at for at, frame in enumerate(frames[:12]) if _SIGNAL_FRAMES.match(frame)), default=-1)
    below = [frame for frame in frames[last + 1 :] if "(_probe" not in frame]
    while below and _UNWINDER.match(below[0]):
        below.pop(0)
    named = next((at for at, frame in enumerate(below) if not frame.startswith("? ")), 0)
    return tuple(below[named:])


class Wanted:
    """Whether the stacks of a process would tell anything new; ``stacks``: whether any are wanted at all."""

    def __init__(self, stacks: bool) -> None:
        self._stacks = stacks
        self._lock = threading.Lock()
        self._seen: set[tuple[object, ...]] = set()

    def crash(self, record: Record) -> bool:
        return self._is_new((record.crash_signal, *top(record.crash_frames)[:TOP_FRAMES]))

    def hang(self, record: Record) -> bool:
        return self._is_new(("hang", record.stage))

    def _is_new(self, key: tuple[object, ...]) -> bool:
        with self._lock:
            new = self._stacks and key not in self._seen
            self._seen.add(key)
            return new


def collect(pid: int, thread: int) -> str:
    """All that can be learnt of the threads of a process, ``thread`` first; takes seconds."""
    parts = [_threads(pid)]
    tools = _tools(pid)
    for argv, mark in tools:
        text = _run(argv, mark)
        if text:
            parts.append(_first(text, thread))
            break
    else:
        parts.append(NOT_ALLOWED if tools else NO_TOOL)
    return "\n\n".join(filter(None, parts))


def _first(text: str, thread: int) -> str:
    """The stack of one thread before those of the others, without what the tool says before the first."""
    blocks = [block.strip() for block in re.split(r"^(?=Thread \d|Traceback for thread)", text, flags=re.MULTILINE)[1:]]
    mine = re.compile(rf"\(LWP {thread}\)|Traceback for thread {thread}\b")
    return "\n\n".join(sorted(blocks, key=lambda block: mine.search(block.split("\n", 1)[0]) is None))


def _tools(pid: int) -> list[tuple[list[str], str]]:
    """Commands to try in turn, and what each prints if it could do its work."""
    tools = []
    if importlib.util.find_spec("pystack") is not None:
        pystack = [sys.executable, "-m", "pystack", "--no-color", "remote", "--native-all", str(pid)]
        tools.append((pystack, "Traceback for thread"))
    gdb = shutil.which("gdb")
    if gdb is not None:
        settings = ["set pagination off", "set debuginfod enabled off", "thread apply all backtrace 40"]
        words = [word for setting in settings for word in ("-ex", setting)]
        tools.append(([gdb, "-nx", "-batch", "-p", str(pid), *words], "#0 "))
    return tools


def _run(argv: list[str], mark: str) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    text = done.stdout.decode("utf-8", "replace").strip()
    return text[:LIMIT] if mark in text else ""


def _threads(pid: int) -> str:
    """A line a thread: its name, state and the kernel function it sleeps in, where /proc has that (Linux)."""
    lines = []
    for task in sorted(pathlib.Path(f"/proc/{pid}/task").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            name = (task / "comm").read_text().strip()
            state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue  # it has ended
        try:
            place = (task / "wchan").read_text().strip("0 \n")
        except OSError:
            place = ""
        lines.append(f"{task.name:>8}  {state}  {name:16} {place}".rstrip())
    return "\n".join(["  thread  state name     kernel function", *lines]) if lines else ""
