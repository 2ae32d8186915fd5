"""Initialize and finalize Python under fire, and print one line of figures.

    python3 tests/stress/run.py                               this interpreter, 1,000 finalizations
    python3 tests/stress/run.py --quick                       100
    python3 tests/stress/run.py --python python3.9 --python python3.14
    python3 tests/stress/run.py --seed 7 --only starve,subs   two of the five modes

stress.c does the work, a process a batch, so that one crash does not hide the rest. The seed decides which
operations every thread does in which order; the scheduling is the machine's and is not replayed, so a seed that
failed once may have to run a few times. Each mode also runs as a control, with PyGILState_Ensure under a lock of
the program instead of our API: what fails or grows there is CPython's own. Failures leave a report with the backtraces of all threads in build/stress.

On native 3.15 only `cycles` and `subs` run, with pauses: CPython's own functions hang in starvation (F9) and in
the child of a fork (F1), those promises are ours only. PEP788_TEST_ALWAYS=1 puts our implementation under test.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import platform
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

try:
    import pytest  # noqa: F401
except ImportError:
    # support.py reports a failed build through pytest; nothing else of it is needed here.
    class _Mark:
        def __getattr__(self, name: str) -> object:
            return lambda *args, **kwargs: None

    def _give_up(reason: str, **_: object) -> None:
        sys.exit(f"stress: {reason}")

    sys.modules["pytest"] = types.ModuleType("pytest")
    sys.modules["pytest"].__dict__.update(fail=_give_up, skip=_give_up, mark=_Mark(), MarkDecorator=object)

import support  # noqa: E402

REPORTS = support.REPO / "build" / "stress"
FIELDS = ("finalizations", "guards", "refused", "ensures", "subinterpreters", "own_gil", "forks", "lost", "rss")
GROWTH_CYCLES = 60
GROWTH_LIMIT = 16.0  # KiB a cycle above the control


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way of stress.c: how much of the finalizations it gets, and how many a process."""

    name: str
    share: float
    cycles: int
    per_cycle: float  # finalizations, counting those of forked children
    native: bool
    what: str


MODES = (
    Mode("cycles", 0.40, 20, 1, True, "8 native threads attach in every way"),
    Mode("starve", 0.15, 20, 1, False, "8 native threads take and close guards without pause (F9)"),
    Mode("daemons", 0.15, 20, 1, False, "8 attached daemon threads do the same (F9)"),
    Mode("subs", 0.10, 5, 1, True, "subinterpreters created and ended under fire"),
    Mode("forks", 0.20, 5, 4, False, "children of forks finalize and exit (F1)"),
)


@dataclasses.dataclass(frozen=True)
class Batch:
    """One process."""

    mode: str
    seed: int
    cycles: int
    control: bool = False
    rounds: bool = False
    trace: bool = False
    malloc: bool = False  # memory of Python comes from malloc: RSS then counts what is lost, not arenas

    def arguments(self, threads: int) -> List[str]:
        flags = {"control": self.control, "rounds": self.rounds, "own": sys.version_info >= (3, 12)}
        words = [self.mode, f"seed={self.seed}", f"cycles={self.cycles}", f"threads={threads}"]
        return words + [f"{name}=1" for name, on in flags.items() if on]


@dataclasses.dataclass
class Outcome:
    """How one process ended; `figures` are those of its last finished cycle."""

    batch: Batch
    figures: Dict[str, int]
    resident: List[int]
    failure: str = ""
    report: str = ""
    seconds: float = 0.0


def plan(finalizations: int, seed: int, modes: Sequence[Mode]) -> List[Batch]:
    """The batches of a run, every mode from the start, so that an early stop has seen them all."""
    rows = []
    whole = sum(mode.share for mode in modes)
    for mode in modes:
        count = -(-finalizations * mode.share / whole // (mode.cycles * mode.per_cycle))
        row = [
            # A sixth of them with traced guards, a third with threads and callbacks that appear late (G6).
            Batch(mode.name, seed + n, mode.cycles, rounds=mode.name == "cycles" and n % 3 == 2, trace=n % 6 == 1)
            for n in range(int(count))
        ]
        rows += [((n + 0.5) / len(row), batch) for n, batch in enumerate(row)]
    return [batch for _, batch in sorted(rows, key=lambda item: item[0])]


class Runner:
    """Starts batches of one program and looks into those that crash or hang."""

    def __init__(self, program: pathlib.Path, options: argparse.Namespace) -> None:
        self.program = program
        self.options = options
        self.debugger = shutil.which("gdb")

    def run(self, batch: Batch) -> Outcome:
        argv = [str(self.program), *batch.arguments(self.options.threads)]
        env = dict(os.environ, PYTHONFAULTHANDLER="0", PEP788_TRACE=str(int(batch.trace)))
        if batch.malloc:
            # Up to 3.13 whole arenas are lost at finalization, and how many of their pages were in use varies.
            env["PYTHONMALLOC"] = "malloc"
        env.setdefault("PYTHONHOME", f"{sys.base_prefix}{os.pathsep}{sys.base_exec_prefix}")
        start = time.monotonic()
        child = subprocess.Popen(
            [*argv, f"hold={int(bool(self.debugger))}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
        errors = support._Drain(child.stderr)
        outcome = Outcome(batch, dict.fromkeys(FIELDS, 0), [])
        traces = ""
        try:
            outcome.failure = self._watch(child, outcome)
            if outcome.failure:
                traces = self._backtraces(child.pid)
        finally:
            support._kill_session(child.pid)
        status = child.wait()
        outcome.seconds = time.monotonic() - start
        if not outcome.failure and status:
            outcome.failure = f"exit status {status}" if status > 0 else f"signal {-status}"
        if not outcome.failure and len(outcome.resident) != batch.cycles:
            outcome.failure = f"{len(outcome.resident)} of {batch.cycles} cycles reported"
        if outcome.failure:
            command = f"PEP788_TRACE={int(batch.trace)} {'PYTHONMALLOC=malloc ' * batch.malloc}PYTHONHOME={env['PYTHONHOME']} {' '.join(argv)}"
            self._report(outcome, f"{command}\n{outcome.failure}\n\n{errors.text()}\n{traces}")
        return outcome

    def _watch(self, child: subprocess.Popen, outcome: Outcome) -> str:
        """Read figures until the process ends; what went wrong if it crashes or stands still."""
        lines: "queue.Queue[str]" = queue.Queue()
        threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=self.options.timeout)
            except queue.Empty:
                return f"hang: no cycle finished in {self.options.timeout:.0f} s"
            if not line:
                return ""
            kind, *values = line.split()
            if kind == "CRASH":
                return f"crash: {signal.Signals(int(values[0])).name} in process {values[1]}"
            if kind == "a":
                continue
            outcome.figures = dict(zip(FIELDS, map(int, values)))
            outcome.resident.append(outcome.figures["rss"])

    def _backtraces(self, session: int) -> str:
        if not self.debugger:
            return "no gdb, no backtraces"
        texts = []
        for pid in _session(session):
            command = [self.debugger, "-batch", "-nx", "-p", str(pid), "-ex", "thread apply all bt 40"]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
                )
                texts.append(f"--- process {pid}\n{done.stdout.decode('utf-8', 'replace')}")
            except subprocess.TimeoutExpired:
                texts.append(f"--- process {pid}: gdb did not finish")
        return "\n".join(texts)

    def _report(self, outcome: Outcome, text: str) -> None:
        batch = outcome.batch
        REPORTS.mkdir(parents=True, exist_ok=True)
        kind = "control-" if batch.control else ""
        path = REPORTS / f"{kind}{batch.mode}-{column().replace(' ', '-')}-{batch.seed}-{os.getpid()}.txt"
        path.write_text(text)
        outcome.report = str(path)
        said = [line for line in text.splitlines() if line.startswith("stress: FAILURE")]
        print(f"{kind}{batch.mode} seed {batch.seed}: {outcome.failure}; {(said or [''])[0]}\n  {path}", flush=True)


def _pump(pipe, lines: "queue.Queue[str]") -> None:
    with pipe:
        for line in pipe:
            lines.put(line.decode("ascii", "replace"))
    lines.put("")


def _session(leader: int) -> Iterator[int]:
    """The processes of a session: the one that stands still may be waiting for a forked child."""
    yield leader
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and int(entry.name) != leader and fields[0] != "Z":
            yield int(entry.name)


def growth(outcome: Outcome) -> Optional[float]:
    """KiB a cycle, after the first third: caches and arenas have filled by then."""
    samples = outcome.resident[len(outcome.resident) // 3 :]
    if outcome.failure or len(samples) < 10:
        return None
    head, tail = samples[: len(samples) // 3], samples[-(len(samples) // 3) :]
    return (sum(tail) / len(tail) - sum(head) / len(head)) / (len(samples) - len(head))


def column() -> str:
    """The name of what is under test."""
    which = "native" if support.NATIVE else "always" if support.ALWAYS else "pep788.h"
    build = ("debug " if support.DEBUG_BUILD else "") + ("free-threaded " if support.FREE_THREADED else "")
    return f"{platform.python_version()} {build}{which}"


def stress(options: argparse.Namespace) -> int:
    """All batches on this interpreter; returns the exit status."""
    program = support.build_program("stress", [HERE / "stress.c"])
    runner = Runner(program, options)
    modes = [m for m in MODES if (m.native or not support.NATIVE) and (not options.only or m.name in options.only)]
    if not modes:
        print("stress: nothing to run: native 3.15 has no mode of these\n0 passed, 0 failed, 1 skipped")
        return 0
    controls = [Batch(mode.name, options.seed, mode.cycles, control=True) for mode in modes]
    batches = plan(options.finalizations, options.seed, modes)
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(runner.run, batches))
        seconds = time.monotonic() - start
        control = list(pool.map(runner.run, controls))
        kib: Tuple[Optional[float], Optional[float]] = (None, None)
        # Native debug 3.15.2: a view made before Py_Initialize comes from the debug allocator; with PYTHONMALLOC
        # PyInterpreterView_Close gives it to another one, which aborts.
        if not (support.NATIVE and support.DEBUG_BUILD):
            first = Batch("cycles", options.seed, 20 if options.quick else GROWTH_CYCLES, malloc=True)
            grown = list(pool.map(runner.run, [first, dataclasses.replace(first, control=True)]))
            kib = growth(grown[0]), growth(grown[1])
            outcomes.append(grown[0])
            control.append(grown[1])
    return conclude(options, outcomes, control, kib, seconds)


def conclude(
    options: argparse.Namespace,
    outcomes: List[Outcome],
    control: List[Outcome],
    kib: Tuple[Optional[float], Optional[float]],
    seconds: float,
) -> int:
    """Print the line of figures and the totals that tools/matrix.py reads."""
    sums = {field: sum(outcome.figures[field] for outcome in outcomes) for field in FIELDS if field != "rss"}
    failed = [outcome for outcome in outcomes if outcome.failure]
    broken = sorted({outcome.batch.mode for outcome in control if outcome.failure})
    control_lost = sum(outcome.figures["lost"] for outcome in control)
    leaks = None not in kib and kib[0] > kib[1] + GROWTH_LIMIT
    figures = {"column": column(), **sums, "failures": len(failed) + leaks, "seconds": round(seconds, 1)}
    figures.update(rss_kib_a_cycle=kib[0], rss_kib_a_cycle_control=kib[1], control_fails=broken, seed=options.seed)
    if options.json:
        text = json.dumps({**figures, "reports": [outcome.report for outcome in failed]}) + "\n"
        sys.stdout.write(text) if options.json == "-" else pathlib.Path(options.json).write_text(text)
    if broken:
        print(f"the control fails too, without a call of ours: {', '.join(broken)}")
    if sums["lost"]:
        print(
            f"{sums['lost']} children of forks were lost inside PyOS_AfterFork_Child, {control_lost} in the control: "
            "up to 3.12 CPython forks while other threads change its list of thread states"
        )
    if support.NATIVE:
        print("native 3.15: starvation (F9) and forks (F1) are promises of ours only and were not run")
    if leaks:
        print(f"memory grows by {kib[0]:.1f} KiB a cycle, by {kib[1]:.1f} in the control")
    memory = "RSS not measured" if None in kib else f"RSS {kib[0]:+.1f} KiB a cycle (control {kib[1]:+.1f})"
    print(
        f"{column()}: {sums['finalizations']:,} finalizations, {sums['guards']:,} guards taken, "
        f"{sums['refused']:,} refused, {sums['ensures']:,} ensures, {sums['subinterpreters']:,} subinterpreters "
        f"({sums['own_gil']:,} with a GIL of their own), {sums['forks']:,} forks, "
        f"{figures['failures']} failures, {seconds:.1f} s; {memory}; seed {options.seed}"
    )
    print(f"{len(outcomes) - len(failed)} passed, {len(failed) + leaks} failed", flush=True)
    return 1 if failed or leaks else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="another interpreter; may be repeated")
    parser.add_argument("--finalizations", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--quick", action="store_true", help="100 finalizations, unless --finalizations is given")
    parser.add_argument("--seed", type=int, default=1, help="of the first batch; the next ones count up")
    parser.add_argument("--threads", type=int, default=8, help="default: 8")
    parser.add_argument("--only", default="", metavar="MODES", help=", ".join(mode.name for mode in MODES))
    parser.add_argument("--jobs", type=int, default=1, help="batches at once (default: 1)")
    parser.add_argument("--timeout", type=float, default=60, metavar="S", help="a hang: no cycle for so long (60)")
    parser.add_argument("--json", metavar="FILE", help="the figures; - for standard output")
    options = parser.parse_args(arguments)
    options.only = set(filter(None, options.only.split(",")))
    unknown = options.only - {mode.name for mode in MODES}
    if unknown:
        parser.error(f"--only: no such mode: {', '.join(sorted(unknown))}")
    if options.quick and "--finalizations" not in " ".join(arguments):
        options.finalizations = 100
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if not options.python:
        return stress(options)
    rest: List[str] = []
    skip = False
    for word in arguments:
        if not skip and word != "--python" and not word.startswith("--python="):
            rest.append(word)
        skip = word == "--python"
    statuses = [subprocess.call([python, str(HERE / "run.py"), *rest]) for python in options.python]
    return max(1 if status else 0 for status in statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
