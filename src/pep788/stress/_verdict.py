"""What a run that is over proves: ok, or a failure with its usual cause and what to do about it."""

from __future__ import annotations

import dataclasses
import re
import signal
from typing import Optional

from .._processes import signal_name
from ._child import Ended
from ._record import KILLED, STAGES, TEARDOWN, Record
from ._stacks import TOP_FRAMES, top

OK, CRASH, HANG, LOST, STATUS = "ok", "crash", "hang", "lost", "status"
VERDICTS = {
    OK: "ended as it should",
    CRASH: "killed by a signal, or aborted",
    HANG: "did not end",
    LOST: "ended, but native threads never came back from Python",
    STATUS: "ended with another exit status",
}

_FATAL = re.compile(
    r"^(Fatal Python error: .*|terminate called .*|FATAL: exception not rethrown|pure virtual method called"
    r"|.*: Assertion .* failed.*|(?:free|malloc|realloc|munmap_chunk|corrupted|double free|tcache).*: .*"
    r"|\*\*\* stack smashing detected \*\*\*.*)",
    re.MULTILINE,
)
_OF_PYTHON = re.compile(r"^_?Py|\(.*python")
_ATTACHES = re.compile(r"PyGILState_Ensure|PyEval_(Restore|Acquire)Thread|PyThreadState_(New|Swap|Get)|take_gil")

PORT = (
    "Stop and join the threads before the program ends. Where that cannot be sure: attach with "
    "PyThreadState_EnsureFromView of pep788.h and return on NULL (pep788's README, In C)."
)
UNWOUND = (
    "A native thread attached (PyGILState_Ensure, PyEval_RestoreThread) after finalization had begun, CPython up to "
    "3.13.7 ended it with pthread_exit, and the unwinding met a C++ frame that is noexcept or does not rethrow."
)
KILLED_WHY = (
    "A native thread called PyGILState_Ensure or PyEval_RestoreThread after finalization had begun: CPython up to "
    "3.13.7 ends such a thread with pthread_exit. The code after the call never ran, and what it had locked stays "
    "locked."
)
PARKED_WHY = (
    "A native thread called PyGILState_Ensure or PyEval_RestoreThread after finalization had begun: from 3.13.8 and "
    "3.14 on CPython lets it sleep for ever (gh-87135). The code after the call never ran, and whoever joins the "
    "thread hangs."
)
LATE = "A native thread attached to an interpreter that was being torn down, or was gone."
TORN = (
    "The finalizing thread crashed while it tore the interpreter down: a destructor used something that was gone, or "
    "another thread had changed what it was tearing down."
)
NOT_PYTHON = (
    "A native thread that was not in Python was still at work while the process exited, which destroys the static data "
    "of libraries under it."
)
UNLOADED = (
    "A native thread ran in code that is not there any more: its library was unloaded, or the callback it was about to "
    "call was freed (cffi and ctypes do both during finalization)."
)
NOT_AT_EXIT = "This happened while the program ran, before its finalization began: it is not a failure at exit."
HANG_WHY = {
    0: "The program did not end by itself. If it is meant to run so long, raise --limit.",
    1: "It waits for a thread that is not a daemon: a threading.Thread that was not told to end, or a "
    "concurrent.futures worker that is still busy.",
    2: "An atexit callback does not return.",
    3: "It waits after the atexit callbacks: for a guard that is open, for a subinterpreter, or for a late thread.",
}
HANG_LATE = (
    "It hangs in the teardown: a destructor waits for a thread, a lock or a condition of a thread that CPython has "
    "ended or put to sleep."
)
HANG_DO = {
    0: "The stacks below show where it is.",
    1: "Tell the thread to end and join it, or make it a daemon thread that works inside pep788.guard().",
    2: "The stacks below show which one; give its waits a time limit, and stop threads before you wait for them.",
    3: "PEP788_TRACE=1 makes pep788 name the module, thread and age of each guard.",
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run failed; runs with the same ``key`` are a group."""

    verdict: str
    title: str
    stage: str
    frames: tuple[str, ...]
    """The innermost ones that tell something, as far as they are known."""
    why: str
    advice: str

    @property
    def kind(self) -> tuple[str, str]:
        return (self.verdict, self.title)

    @property
    def key(self) -> tuple[str, ...]:
        return (*self.kind, *self.frames[:TOP_FRAMES])


def judge(ended: Ended, expected: int) -> Optional[Failure]:
    """The failure, or None if the run ended as it should."""
    if ended.hung:
        return _hang(ended)
    crashed = next((record for record in ended.records if record.crash_signal), None)
    if crashed is not None or ended.status < 0:
        return _crash(ended, crashed)
    losers = [record for record in ended.records if record.losses]
    if losers:
        return _lost(losers[0])
    if ended.status != expected:
        return _status(ended)
    return None


def _crash(ended: Ended, record: Optional[Record]) -> Failure:
    number = record.crash_signal if record is not None else -ended.status
    fatal = _FATAL.search(ended.stderr)
    said = re.sub(r"^terminate called .*", "terminate called", fatal.group(1).strip())[:200] if fatal else ""
    title = signal_name(number) + (f": {said}" if said else "")
    frames = top(record.crash_frames) if record is not None else ()
    ending = record or next(iter(ended.records), None)
    stage = ending.stage if ending is not None else None
    main = record is not None and record.crash_thread == record.pid
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP):
        why, advice = "Somebody else ended it with a signal.", "Nothing that pep788 stress did: run it once more."
    elif "terminate called" in said or "not rethrown" in said:
        why, advice = UNWOUND, PORT
    elif stage == 0:
        why, advice = NOT_AT_EXIT, "Look at the frames and stacks below."
    elif main and not any(_ATTACHES.search(frame) for frame in frames):
        why, advice = TORN, "Look at the frames and stacks below: what is destroyed there, and who still uses it?"
    elif frames and frames[0] == "? (?)":
        why, advice = UNLOADED, "Stop and join the threads of that library before the program ends."
    elif frames and not any(_OF_PYTHON.search(frame) for frame in frames):
        why, advice = NOT_PYTHON, "Stop and join the threads of that library before the program ends."
    else:
        why, advice = LATE, PORT
    return Failure(CRASH, title, _stage(stage), frames, why, advice)


def _hang(ended: Ended) -> Failure:
    record = max(ended.records, key=lambda one: (bool(one.ending_ns), one.stage), default=None)
    if record is None:
        why = "The program did not end by itself, and no Python in it was seen (python -I, -E or -S?)."
        return Failure(HANG, ended.hung, "not known", (), why, "If it is meant to run so long, raise --limit.")
    why = HANG_WHY.get(record.stage, HANG_LATE)
    if record.lost and record.stage:
        why += f" CPython has ended or put to sleep {record.lost} native threads of this process."
    advice = HANG_DO.get(record.stage, PORT)
    return Failure(HANG, f"hang: {STAGES[record.stage]}", _stage(record.stage), top(record.crash_frames), why, advice)


def _lost(record: Record) -> Failure:
    loss = record.losses[0]
    killed = loss.kind == KILLED
    title = "native threads ended by CPython" if killed else "native threads asleep for ever in CPython"
    return Failure(LOST, title, _stage(loss.stage), top(loss.frames), KILLED_WHY if killed else PARKED_WHY, PORT)


def _status(ended: Ended) -> Failure:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    stage = ended.records[0].stage if ended.records else None
    why = f"The last it said: {lines[-1].strip()[:300]}" if lines else "It said nothing."
    if ended.records and not ended.records[0].ending_ns:
        why = f"It ended without finalization (os._exit, or a signal handler of its own). {why}"
    title = f"exit status {ended.status}"
    advice = "If that is how it should end, say so with --status."
    return Failure(STATUS, title, _stage(stage), (), why, advice)


def _stage(stage: Optional[int]) -> str:
    return "not known" if stage is None else STAGES[stage] + (" (flag set)" if stage == TEARDOWN else "")


def threads_lost(ended: Ended) -> int:
    """Native threads that CPython ended or put to sleep, in all processes of the run."""
    return sum(record.lost for record in ended.records)


def stages(record: Record, over_ns: int) -> list[tuple[int, float, float]]:
    """Number, begin and end of each stage that was seen, in seconds since the process began; over_ns is its end."""
    seen = [(at, ns) for at, ns in enumerate(record.stage_ns) if ns]
    marks = [(0, record.begin_ns), *seen]
    ends = [ns for _, ns in marks[1:]] + [over_ns]
    return [
        (at, (begin - record.begin_ns) * 1e-9, (end - record.begin_ns) * 1e-9)
        for (at, begin), end in zip(marks, ends)
    ]
