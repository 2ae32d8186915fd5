"""Run commands many times, some at once, and collect what came of each run."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from .._processes import no_core_files
from . import _verdict
from ._child import Child, Ended, Limits
from ._stacks import Wanted
from ._verdict import OK, Failure

POLL_SECONDS = 0.005


@dataclasses.dataclass(frozen=True)
class Run:
    """One run in the report."""

    seed: int
    verdict: str
    seconds: float
    lost: int
    seen: bool
    """Whether its stages are known."""


@dataclasses.dataclass
class Group:
    """Failures that look the same, and one of them as a sample."""

    failure: Failure
    sample: Ended
    runs: list[int] = dataclasses.field(default_factory=list)
    """Their seeds."""


@dataclasses.dataclass
class Cell:
    """All runs of one command on one interpreter."""

    label: str
    argv: Sequence[str]
    python: str = ""
    runs: list[Run] = dataclasses.field(default_factory=list)
    groups: list[Group] = dataclasses.field(default_factory=list)

    def count(self, verdict: str) -> int:
        return sum(run.verdict == verdict for run in self.runs)

    def group_of(self, failure: Failure, ended: Ended) -> Group:
        """The group of failures that look like this one; one whose stack is not known looks like all of its kind."""
        for group in self.groups:
            known = failure.frames and group.failure.frames
            if group.failure.key == failure.key or (not known and group.failure.kind == failure.kind):
                return group
        self.groups.append(Group(failure, ended))
        return self.groups[-1]

    @property
    def failures(self) -> int:
        return len(self.runs) - self.count(OK)

    @property
    def unseen(self) -> int:
        return sum(not run.seen for run in self.runs)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to run."""

    runs: int
    jobs: int
    seed: int
    amplify: bool
    limits: Limits
    status: int
    embed: bool
    stacks: bool
    probe: Optional[pathlib.Path]


class Runner:
    """Fills cells; `stop` may be called from another thread or a signal handler."""

    def __init__(self, plan: Plan, tell: Callable[[Cell], None]) -> None:
        self._plan, self._tell = plan, tell
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def stop(self) -> None:
        self._stopped.set()

    def fill(self, cell: Cell) -> None:
        """Do all runs of a cell.  OSError if the command cannot be started."""
        no_core_files()
        wanted = Wanted(self._plan.stacks)
        seeds = iter(range(self._plan.seed, self._plan.seed + self._plan.runs))
        jobs = min(self._plan.jobs, self._plan.runs)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            try:
                futures = [pool.submit(self._some, cell, seeds, wanted) for _ in range(jobs)]
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                self.stop()  # the others kill their child and return
                raise

    def _some(self, cell: Cell, seeds: Iterator[int], wanted: Wanted) -> None:
        """Do runs, next to other threads that do, until there are no more."""
        while not self._stopped.is_set():
            with self._lock:
                seed = next(seeds, None)
            if seed is None:
                return
            self._one(cell, seed, wanted)

    def _one(self, cell: Cell, seed: int, wanted: Wanted) -> None:
        plan = self._plan
        child = Child(cell.argv, seed, plan.amplify, plan.limits, plan.probe, plan.embed)
        try:
            ended = child.poll(wanted)
            while ended is None:
                if self._stopped.wait(POLL_SECONDS):
                    return
                ended = child.poll(wanted)
        finally:
            child.kill()
        self._add(cell, ended)

    def _add(self, cell: Cell, ended: Ended) -> None:
        failure = _verdict.judge(ended, self._plan.status)
        run = Run(
            seed=ended.seed,
            verdict=failure.verdict if failure else OK,
            seconds=ended.seconds,
            lost=_verdict.threads_lost(ended),
            seen=bool(ended.records),
        )
        with self._lock:
            cell.runs.append(run)
            if ended.records:
                cell.python = cell.python or ended.records[0].python
            if failure is not None:
                group = cell.group_of(failure, ended)
                group.runs.append(ended.seed)
                if _tells_more(failure, ended, group):
                    group.failure, group.sample = failure, ended
            self._tell(cell)


def _tells_more(failure: Failure, ended: Ended, group: Group) -> bool:
    mine = (bool(ended.stacks), bool(failure.frames))
    return mine > (bool(group.sample.stacks), bool(group.failure.frames))


def default_seed() -> int:
    """A seed from the clock: printed, so that a run can be had once more."""
    return time.time_ns() // 1000 % 1_000_000_000 + 1
