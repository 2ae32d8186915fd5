"""Run one program many times, each in a process of its own, and say how each one ended."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Callable

from .._processes import kill_session, signal_name

# Each process has threads of its own: more at a time than cores only slow them down.
JOBS = max(2, os.cpu_count() or 2)
ENOUGH_HANGS = 5
POLL_SECONDS = 0.005
STDERR_LIMIT = 4000


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What the native side counted; the fields and their order are those of ledger.h."""

    asked: int
    attached: int
    back: int
    refused: int
    killed_door: int
    killed_inside: int
    finished: int

    @classmethod
    def read(cls, path: pathlib.Path) -> Ledger:
        return cls(*LEDGER.unpack(path.read_bytes()))

    @property
    def killed(self) -> int:
        """Threads that CPython ended by pthread_exit."""
        return self.killed_door + self.killed_inside

    @property
    def frozen(self) -> int:
        """Threads that stopped for ever in the middle of a callback."""
        return max(0, self.attached - self.back - self.killed_inside)

    @property
    def parked(self) -> int:
        """Threads that asked and never got an answer."""
        return max(0, self.asked - self.attached - self.refused - self.killed_door)


LEDGER = struct.Struct(f"={len(dataclasses.fields(Ledger))}q")


@dataclasses.dataclass(frozen=True)
class Run:
    """How one process ended.

    ``outcome`` is one of OUTCOMES, ``detail`` the name of the signal or the exit status.
    """

    outcome: str
    detail: str
    ledger: Ledger
    said: str
    seconds: float


OUTCOMES = ("ok", "parked", "lost", "crash", "hang", "error")


@dataclasses.dataclass
class Cell:
    """All runs of one program built in one way."""

    program: str
    column: str
    runs: list[Run] = dataclasses.field(default_factory=list)
    skipped: str = ""
    """Why there are no runs."""

    def count(self, outcome: str) -> int:
        return sum(run.outcome == outcome for run in self.runs)

    def details(self, outcome: str) -> Counter[str]:
        return collections.Counter(run.detail for run in self.runs if run.outcome == outcome)

    def first(self, outcome: str) -> Run | None:
        return next((run for run in self.runs if run.outcome == outcome), None)

    def total(self, what: str, *outcomes: str) -> int:
        """Sum of a number of the ledger over the runs with these outcomes."""
        return sum(getattr(run.ledger, what) for run in self.runs if run.outcome in outcomes)

    def as_dict(self) -> dict[str, object]:
        if self.skipped:
            return {"skipped": self.skipped}
        bad = next((run.said for run in self.runs if run.said and run.outcome != "ok"), "")
        return {
            "runs": len(self.runs),
            **{outcome: self.count(outcome) for outcome in OUTCOMES},
            "signals": dict(self.details("crash")),
            "threads": {
                what: self.total(what, "ok", "parked", "lost") for what in ("killed", "frozen", "parked", "refused")
            },
            "callbacks": sum(run.ledger.back for run in self.runs),
            "slowest_seconds": round(max((run.seconds for run in self.runs), default=0.0), 3),
            "stderr": bad,
        }


@dataclasses.dataclass(frozen=True)
class Job:
    """How to start the process of a cell."""

    script: pathlib.Path
    path: Sequence[pathlib.Path]
    env: Mapping[str, str]


def classify(status: int, hung: bool, ledger: Ledger) -> tuple[str, str]:
    """Judge by what happened to the threads, not by which API was in use."""
    if hung:
        return "hang", ""
    if status < 0:
        return "crash", signal_name(-status)
    if status > 0:
        return "error", f"exit status {status}"
    if not ledger.finished:
        return "error", "exit status 0, but before the end of the process"
    if ledger.killed or ledger.frozen:
        return "lost", ""
    return ("parked", "") if ledger.parked else ("ok", "")


class _Child:
    """One process in a session of its own, so that whatever it starts dies with it."""

    def __init__(self, job: Job, scratch: pathlib.Path, number: int, timeout: float) -> None:
        self._ledger = scratch / f"ledger-{number}"
        self._ledger.write_bytes(bytes(LEDGER.size))
        self._stderr = scratch / f"stderr-{number}"
        self._began = time.monotonic()
        self._deadline = self._began + timeout
        with open(self._stderr, "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-B", str(job.script)],
                env=_environment(job, self._ledger),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def poll(self) -> Run | None:
        """The result, or None as long as it runs."""
        hung = self._process.poll() is None
        if hung and time.monotonic() < self._deadline:
            return None
        self.kill()
        outcome, detail = classify(self._process.returncode, hung, Ledger.read(self._ledger))
        with open(self._stderr, "rb") as stderr:
            said = stderr.read(STDERR_LIMIT).decode("utf-8", "replace").strip()
        run = Run(outcome, detail, Ledger.read(self._ledger), said, time.monotonic() - self._began)
        self._ledger.unlink()
        self._stderr.unlink()
        return run

    def kill(self) -> None:
        """Harmless when it has ended."""
        kill_session(self._process)


def _environment(job: Job, ledger: pathlib.Path) -> dict[str, str]:
    # PYTHONFAULTHANDLER, PYTHONTRACEMALLOC and the like must not decide the outcome.
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHONHOME" or not name.startswith(("PYTHON", "PEP788_"))
    }
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    kept["PYTHONPATH"] = os.pathsep.join([*map(str, job.path), *inherited])
    return {**kept, **job.env, "PEP788_DEMO_LEDGER": str(ledger)}


def run_cell(cell: Cell, job: Job, scratch: pathlib.Path, runs: int, timeout: float, tell: Callable[[], None]) -> None:
    """Fill the cell; `tell` is called after each run. Ctrl-C leaves no process behind."""
    running: list[_Child] = []
    started = 0
    try:
        while running or started < runs:
            while started < runs and len(running) < JOBS:
                running.append(_Child(job, scratch, started, timeout))
                started += 1
            time.sleep(POLL_SECONDS)
            for child in list(running):
                run = child.poll()
                if run is not None:
                    running.remove(child)
                    cell.runs.append(run)
                    tell()
            if cell.count("hang") >= ENOUGH_HANGS:
                runs = started  # each one costs a whole timeout, and the point is made
    finally:
        for child in running:
            child.kill()
