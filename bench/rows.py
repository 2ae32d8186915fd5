"""What is measured, what is compared with what, and what was promised: the rows of the tables, and their arithmetic.

Standard library only: the tests judge small results with it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional, Union

# One group is one set of interleaved rounds: what is in it may be compared.
GROUPS = {
    "attach": "attach and detach on a thread without a thread state",
    "nested": "Ensure and Release on a thread that is attached already",
    "guard": "a guard from a view and back, 1 and 2 threads",
    "views": "the same after many interpreters have lived",
    "callbacks": "a trivial Python function called by a native thread",
    "close": "from the last Close to finalization going on",
    "process": "import and exit of a process",
    "shield": "what pep788 shield adds to a pair, a start and an import",
}
LIBRARIES = ("pybind11", "nanobind", "cffi", "ctypes")
OLD, MIDDLE, NEW = ("3.9", "3.10"), ("3.11", "3.12", "3.13.0", "3.13"), ("3.14", "3.15", "3.15-always")
ALL = (*OLD, *MIDDLE, *NEW)

Samples = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle of a number of measurements, the quartiles around it, and how many there were."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """One for each round; a round that was interrupted has none."""
    return [a / b for a, b in zip(numerator, denominator)]


@dataclasses.dataclass(frozen=True)
class Target:
    """What was promised, for some columns."""

    at_most: Optional[float] = None
    at_least: Optional[float] = None

    def met(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"


@dataclasses.dataclass(frozen=True)
class Missing:
    """Why a row has nothing to compare in a column."""

    why: str


Choice = Union[tuple[str, str], Missing]


@dataclasses.dataclass(frozen=True)
class Row:
    """`choose` names the two contenders whose ratio this is, or says why there is none."""

    key: str
    group: str
    title: str
    choose: Callable[[Samples], Choice]
    targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    unit: str = ""  # of an absolute value: then the second contender is empty
    native_counts: bool = False  # judged also where `ours` is the native functions


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of one column."""

    spread: Optional[Spread] = None
    target: Optional[Target] = None
    note: str = ""  # why there is nothing, or what it was compared with

    @property
    def verdict(self) -> str:
        if self.spread is None or self.target is None:
            return ""
        return "met" if self.target.met(self.spread.median) else "NOT MET"


def pair(first: str, second: str, why: str = "") -> Callable[[Samples], Choice]:
    def choose(samples: Samples) -> Choice:
        lacking = [name for name in (first, second) if not samples.get(name)]
        return Missing(why or f"{lacking[0]} was not measured") if lacking else (first, second)

    return choose


def alone(name: str) -> Callable[[Samples], Choice]:
    return lambda samples: (name, "") if samples.get(name) else Missing(f"{name} was not measured")


def most_interpreters(samples: Samples) -> Choice:
    counts = sorted((name for name in samples if samples[name]), key=int)
    return (counts[-1], "1") if len(counts) > 1 and counts[0] == "1" else Missing("one number of interpreters only")


def best_of(others: Sequence[str], threads: int) -> Callable[[Samples], Choice]:
    """Ours against the library with the best median; where thread states cannot be kept, EnsureFromView is ours."""

    def choose(samples: Samples) -> Choice:
        mine = [name for name in (f"kept {threads}", f"view {threads}") if samples.get(name)]
        rivals = {name: samples[f"{name} {threads}"] for name in others if samples.get(f"{name} {threads}")}
        if not mine or not rivals:
            return Missing(f"nothing to compare with {threads} threads")
        best = max(rivals, key=lambda name: statistics.median(rivals[name]))
        return mine[0], f"{best} {threads}"

    return choose


def for_columns(columns: Sequence[str], target: Target) -> dict[str, Target]:
    return {column: target for column in columns}


ONLY_BESIDE_NATIVE = "only 3.15-always has ours and native side by side"
MAKES_ONE = tuple(name for name in LIBRARIES if name != "cffi")
ROWS = (
    Row(
        "kept",
        "attach",
        "kept attach + detach / PyGILState, fresh",
        pair("kept", "gilstate"),
        {
            **for_columns(OLD, Target(at_most=0.8)),
            **for_columns(MIDDLE, Target(at_most=0.2)),
            **for_columns(NEW, Target(at_most=0.1)),
        },
        native_counts=True,
    ),
    Row(
        "fresh",
        "attach",
        "EnsureFromView + Release, fresh / PyGILState, fresh",
        pair("view", "gilstate"),
        for_columns(ALL, Target(at_most=1.05)),
    ),
    Row(
        "nested",
        "nested",
        "Ensure + Release, attached / PyGILState, nested",
        pair("ensure", "gilstate"),
        for_columns(ALL, Target(at_most=1.0)),
    ),
    Row(
        "nested-native",
        "nested",
        "Ensure + Release, attached / native 3.15",
        pair("ensure", "native", ONLY_BESIDE_NATIVE),
        {"3.15-always": Target(at_most=0.3)},
    ),
    Row(
        "guard-1",
        "guard",
        "guard pair from a view, 1 thread / native 3.15",
        pair("guard 1", "native 1", ONLY_BESIDE_NATIVE),
        {"3.15-always": Target(at_most=0.6)},
    ),
    Row(
        "guard-2",
        "guard",
        "guard pair from a view, 2 threads / native 3.15",
        pair("guard 2", "native 2", ONLY_BESIDE_NATIVE),
        {"3.15-always": Target(at_most=0.1)},
    ),
    Row(
        "views",
        "views",
        "view to guard, most interpreters ever / 1",
        most_interpreters,
        for_columns(ALL, Target(at_most=1.2)),
    ),
    Row(
        "callbacks-1",
        "callbacks",
        "callbacks per second, 1 thread / best library",
        best_of(LIBRARIES, 1),
        {"3.14": Target(at_least=3)},
    ),
    Row(
        "callbacks-2",
        "callbacks",
        "callbacks per second, 2 threads / best library",
        best_of(LIBRARIES, 2),
        {"3.14": Target(at_least=3)},
    ),
    Row(
        "callbacks-1-fresh",
        "callbacks",
        "the same, 1 thread / best that makes a state per call",
        best_of(MAKES_ONE, 1),
    ),
    Row(
        "callbacks-2-fresh",
        "callbacks",
        "the same, 2 threads / best that makes a state per call",
        best_of(MAKES_ONE, 2),
    ),
    *(
        Row(
            f"{library}-{kind}",
            "callbacks",
            f"calls per second through pep788.callback{words} / plain {library}",
            pair(f"{library}-{kind} 1", f"{library} 1"),
            native_counts=True,  # the Python package never uses the native functions
        )
        for library in ("ctypes", "cffi")
        for kind, words in (("safe", ""), ("safe-kept", ", state kept"))
    ),
    Row(
        "close",
        "close",
        "last Close to finalization going on, µs",
        alone("ours"),
        for_columns(ALL, Target(at_most=100)),
        unit="µs",
    ),
    Row(
        "close-floor",
        "close",
        "last Close to finalization going on / the same with a bare semaphore",
        pair("ours", "semaphore"),
    ),
    Row(
        "exit",
        "process",
        "process exit, with import pep788 / without",
        pair("exit with", "exit without"),
        for_columns(ALL, Target(at_most=1.02)),
        native_counts=True,  # the Python package never uses the native functions
    ),
    Row(
        "whole",
        "process",
        "whole process, with import pep788 / without",
        pair("whole with", "whole without"),
        native_counts=True,
    ),
    *(
        Row(f"shield-{name}", "shield", words, alone(name), for_columns(ALL, Target(limit)), unit, native_counts=True)
        for name, words, limit, unit in (
            ("pair", "shield: added to a PyGILState pair, ns", 20, "ns"),
            ("start", "shield: added to the start of a process, µs", 10_000, "µs"),
            ("import", "shield: added to an imported extension module, µs", 300, "µs"),
        )
    ),
)

# How the contenders are called where absolute values are shown: group, contender, words, unit.
# Samples of "k/s" are per second: thousands are easier to read.
SCALE = {"k/s": 1e-3}
CONTENDERS = (
    ("attach", "kept", "EnsureKept + ReleaseKept", "ns"),
    ("attach", "view", "EnsureFromView + Release, fresh", "ns"),
    ("attach", "gilstate", "PyGILState_Ensure + Release, fresh", "ns"),
    ("attach", "native", "native EnsureFromView + Release, fresh", "ns"),
    ("attach", "reattach", "PyEval_RestoreThread + SaveThread", "ns"),
    ("attach", "atomic", "two atomic read-modify-writes, nobody else there", "ns"),
    ("attach", "empty", "the measuring loop itself (in all the others, too)", "ns"),
    ("nested", "ensure", "Ensure + Release, attached", "ns"),
    ("nested", "gilstate", "PyGILState_Ensure + Release, nested", "ns"),
    ("nested", "native", "native Ensure + Release, attached", "ns"),
    *(
        (group, f"{name} {threads}", f"{words}, {threads} thread{'s' * (threads > 1)}", "ns")
        for threads in (1, 2)
        for group, name, words in (
            ("guard", "guard", "guard pair from a view"),
            ("guard", "native", "native guard pair from a view"),
            ("guard", "atomic", "two atomics, a cache line for each thread"),
            ("guard", "atomic shared", "two atomics, the same cache line"),
        )
    ),
    *(("views", str(n), f"guard pair, {n:,} interpreter{'s' * (n > 1)} ever", "ns") for n in (1, 10, 100, 1000)),
    *(
        ("callbacks", f"{name} {threads}", f"callbacks, {words}, {threads} thread{'s' * (threads > 1)}", "k/s")
        for threads in (1, 2)
        for name, words in (
            ("kept", "EnsureKept"),
            ("view", "EnsureFromView"),
            ("gilstate", "PyGILState"),
            ("native", "native EnsureFromView"),
            ("pybind11", "pybind11"),
            ("nanobind", "nanobind"),
            ("cffi", "cffi"),
            ("ctypes", "ctypes"),
            ("attached", "always attached: the call alone"),
        )
        if (name, threads) != ("attached", 2)
    ),
    ("callbacks", "ctypes-safe 1", "callbacks, ctypes through pep788.callback, 1 thread", "k/s"),
    ("callbacks", "ctypes-safe-kept 1", "callbacks, ctypes through pep788.callback, state kept, 1 thread", "k/s"),
    ("callbacks", "cffi-safe 1", "callbacks, cffi through pep788.callback, 1 thread", "k/s"),
    ("callbacks", "cffi-safe-kept 1", "callbacks, cffi through pep788.callback, state kept, 1 thread", "k/s"),
    ("close", "ours", "last Close to finalization going on", "µs"),
    ("close", "native", "the same, native", "µs"),
    ("close", "semaphore", "the same, a semaphore is posted that an atexit callback waits for", "µs"),
    ("process", "import", "import pep788", "µs"),
    ("process", "exit without", "exit of a process without pep788", "µs"),
    ("process", "exit with", "exit of a process that imported pep788", "µs"),
    ("process", "exit json", "exit of a process that imported json, for comparison", "µs"),
    ("process", "whole without", "a process without pep788, start to end", "µs"),
    ("process", "whole with", "a process that imports pep788, start to end", "µs"),
    ("shield", "pair", "added to PyGILState_Ensure + Release, attached", "ns"),
    ("shield", "start", "import pep788.shield and enable()", "µs"),
    ("shield", "import", "looking at an extension module that was imported", "µs"),
)


def judge(row: Row, name: str, column: Mapping[str, Any]) -> Cell:
    """A row of one column of the results."""
    samples = column.get("samples", {}).get(row.group, {})
    failed = column.get("failed", {})
    if not samples:
        return Cell(note=failed.get(row.group) or failed.get("") or "not measured")
    choice = row.choose(samples)
    if isinstance(choice, Missing):
        reasons = [why for missing, why in column.get("missing", {}).get(row.group, {}).items() if row.key in missing]
        return Cell(note=reasons[0] if reasons else choice.why)
    first, second = choice
    values = ratios(samples[first], samples[second]) if second else list(samples[first])
    note = ""
    target = row.targets.get(name)
    if row.group == "callbacks":
        note = f"{first.split()[0]} / {second.split()[0]}"
    if row.key == "views":
        note = f"{int(first):,} / {second}"
        target = target if first == "1000" else None  # --quick makes fewer: that is not what was promised
    if is_native(column) and not row.native_counts:
        note, target = note or "native itself", None
    return Cell(Spread.of(values), target, note)


def is_native(column: Mapping[str, Any]) -> bool:
    """The header stepped aside, so that `ours` is the interpreter's own."""
    return "native" in str(column.get("about", {}).get("ours", ""))
