"""Run a suite on every interpreter of the matrix, some at once, and end with one line of totals.

    python3 tools/matrix.py                          the tests
    python3 tools/matrix.py --only 3.9,3.15 stress   another suite on two interpreters
    python3 tools/matrix.py tests -- -k fork -x      what follows -- goes to the suite
    python3 tools/matrix.py command -- {python} -c 'print("1 passed")'

A suite says how it went in its last line with "N passed", "N failed", "N skipped"; if it says nothing, its exit
status counts as one test.  A column also fails if the interpreter is missing, if it takes too long, and if it
leaves processes behind.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path

import interpreters
from setup_env import BUILD, CHECKOUT, SetupError

SUITES = {
    "tests": ["{python}", "-m", "pytest", "-q", "-o", "cache_dir={build}/pytest"],
    "stress": ["{python}", "tests/stress/run.py"],
    "pyaudio": ["{python}", "examples/pyaudio/prove.py", "--build-dir", "{build}/pyaudio"],
    "callback": ["{python}", "examples/callback/prove.py"],
    "command": [],
}
COUNTS = re.compile(r"\b(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b")
PERCENT = re.compile(rb"\[ *(\d+)%\]")
FIGURES = re.compile(r"^.* finalizations, .* failures, .*$", re.MULTILINE)  # what `stress` says of a column
MARK = "PEP788_MATRIX"  # in the environment of everything a column starts, to find what outlives it
TAIL = 60


@dataclasses.dataclass
class Outcome:
    """A finished column."""

    name: str
    version: str = "-"
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""
    figures: str = ""

    @property
    def fine(self) -> bool:
        return not self.failed


class Matrix:
    """The columns that run at the moment and those that have finished."""

    def __init__(self, options: argparse.Namespace, names: Sequence[str]) -> None:
        self.options = options
        self.names = names
        self.logs = BUILD / "logs" / options.suite
        self.outcomes: dict[str, Outcome] = {}
        self.stopped = False
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._phase: dict[str, str] = {}
        self._lock = threading.RLock()  # `stop` runs in a signal handler
        self._start = time.monotonic()

    def run(self) -> None:
        """Run all columns; returns when all are finished or `stop` was called."""
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            waiting = {pool.submit(self._column, name) for name in self.names}
            tick = 0
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, timeout=0.5, return_when="FIRST_COMPLETED")
                for future in done:
                    self._finish(future.result())
                tick += 1
                if sys.stdout.isatty() or tick % 120 == 0:
                    self._progress()
        self._clear()

    def stop(self, *_: object) -> None:
        """Kill every column; those not started never will be."""
        self.stopped = True
        with self._lock:
            running = dict(self._running)
        for name, process in running.items():
            signal_group(process, signal.SIGKILL)
            kill_marked(self._mark(name))

    def _column(self, name: str) -> Outcome:
        if self.stopped:
            return Outcome(name, failed=1, note="not started")
        self._phase[name] = "setting up"
        try:
            column = interpreters.prepare(name)
        except SetupError as error:
            (self.logs / f"{name}.log").write_text(f"{error}\n")
            first = str(error).splitlines()[0]
            missing = isinstance(error, interpreters.MissingError)
            if missing and self.options.allow_missing:
                return Outcome(name, note=f"left out: {first}")
            return Outcome(name, failed=1, note=f"missing: {first}" if missing else first)
        return self._suite(column)

    def _suite(self, column: interpreters.Column) -> Outcome:
        words = [*SUITES[self.options.suite], *self.options.arguments]
        argv: list[str] = []
        for word in words:
            argv += column.python if word == "{python}" else [word.replace("{build}", str(column.build))]
        argv = [word.replace("{name}", column.name) for word in argv]
        if words[0] != "{python}":  # another program of the same column, perhaps inside the chroot
            argv = [*column.python[:-1], *argv]
        log = self.logs / f"{column.name}.log"
        outcome = Outcome(column.name, column.facts.text)
        start = time.monotonic()
        with log.open("wb") as output:
            process = self._popen(column, argv, output.fileno())
            self._phase[column.name] = ""
            status, why = self._wait(process)
        outcome.seconds = time.monotonic() - start
        left = kill_marked(self._mark(column.name))
        with self._lock:
            del self._running[column.name]
        text = log.read_text(errors="replace")
        outcome.figures = "\n".join(FIGURES.findall(text))
        count(outcome, text)
        judge(outcome, status, why, left)
        return outcome

    def _popen(self, column: interpreters.Column, argv: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        env = {**column.env, MARK: self._mark(column.name)}
        with self._lock:
            process = subprocess.Popen(
                argv,
                cwd=CHECKOUT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running[column.name] = process
        if self.stopped:
            self.stop()  # it was called while this column was not on its list
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        try:
            return process.wait(self.options.timeout), ""
        except subprocess.TimeoutExpired:
            signal_group(process, signal.SIGINT)  # pytest then says which test it was
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            signal_group(process, signal.SIGKILL)
            return process.wait(), f"killed after {self.options.timeout:.0f} s"

    def _mark(self, name: str) -> str:
        return f"{os.getpid()}-{name}"

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        self._phase.pop(outcome.name, None)
        self._clear()
        print(line(outcome), flush=True)
        if outcome.failed and not self.stopped:
            show_tail(self.logs / f"{outcome.name}.log")

    def _progress(self) -> None:
        with self._lock:
            names = list(self._phase)
        parts = [f"{name} {self._phase.get(name) or self._percent(name)}".strip() for name in names]
        seconds, done = time.monotonic() - self._start, len(self.outcomes)
        text = "  ".join([f"{seconds:5.0f} s", f"{done}/{len(self.names)} done", *parts])
        if sys.stdout.isatty():
            text = "\r\033[K" + text[: shutil.get_terminal_size().columns - 1]
        print(text, end="" if sys.stdout.isatty() else "\n", flush=True)

    def _percent(self, name: str) -> str:
        try:
            with (self.logs / f"{name}.log").open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 2000))
                found = PERCENT.findall(log.read())
        except OSError:
            return ""
        return f"{int(found[-1])}%" if found else "running"

    def _clear(self) -> None:
        if sys.stdout.isatty():
            print("\r\033[K", end="")


def count(outcome: Outcome, log: str) -> None:
    """Read the totals from the last line that has any."""
    for text in reversed(log.splitlines()):
        found = COUNTS.findall(text)
        if found:
            for number, word in found:
                kind = {"xfailed": "passed", "xpassed": "failed", "error": "failed", "errors": "failed"}.get(word, word)
                setattr(outcome, kind, getattr(outcome, kind) + int(number))
            return


def judge(outcome: Outcome, status: int, why: str, left: int) -> None:
    """Never let a column pass that did not end as it should."""
    notes = [why] if why else []
    if status and not outcome.failed:
        outcome.failed = 1
        notes = notes or [f"exit status {status}" if status > 0 else f"killed by signal {-status}"]
    if why and not outcome.failed:
        outcome.failed = 1
    if left:
        outcome.failed += 1
        notes.append(f"left {left} processes behind")
    if not outcome.failed and not outcome.passed:
        if outcome.skipped:
            outcome.failed = 1
            notes.append("everything was skipped")
        else:
            outcome.passed = 1
    outcome.note = ", ".join(notes)


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:  # not reaped yet, so the id is still this process's
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass


def kill_marked(mark: str) -> int:
    """Kill what a column started and did not end, also in sessions of their own; returns how many there were.

    Linux only; elsewhere the process group is all there is.
    """
    killed: set[int] = set()
    wanted = f"{MARK}={mark}".encode()
    for _ in range(20):  # a process may start another one while we look
        found = 0
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    found += 1
                    killed.add(int(entry.name))
            except OSError:
                continue  # gone, or somebody else's
        if not found:
            break
        time.sleep(0.05)
    return len(killed)


def line(outcome: Outcome) -> str:
    return (
        f"{outcome.name:12} {outcome.version:9} {outcome.passed:7} {outcome.failed:7} {outcome.skipped:8} "
        f"{outcome.seconds:8.1f}  {outcome.note}"
    ).rstrip()


def show_tail(log: Path) -> None:
    """The end of a failed column's log: whoever reads the output of a build server has no other."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return
    print(f"--- the last lines of {log}")
    print("\n".join(lines[-TAIL:]))
    print("---", flush=True)


def report(matrix: Matrix) -> int:
    """Print the table and the closing line."""
    outcomes = [matrix.outcomes.get(name, Outcome(name, failed=1, note="not finished")) for name in matrix.names]
    print(f"\n{'interpreter':12} {'version':9} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for outcome in outcomes:
        print(line(outcome))
    for outcome in outcomes:
        if outcome.figures:
            print(outcome.figures)
    print(f"logs: {matrix.logs}\n")
    passed, failed = sum(o.passed for o in outcomes), sum(o.failed for o in outcomes)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="tests", choices=sorted(SUITES), help="default: tests")
    parser.add_argument("--only", default="", metavar="NAMES", help="interpreters, separated by commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="columns at once")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="for one column (default: 1800)")
    parser.add_argument("--allow-missing", action="store_true", help="leave out interpreters that are not there")
    mine, theirs = split(sys.argv[1:])
    options = parser.parse_args(mine)
    options.arguments = theirs
    if options.suite == "command" and not theirs:
        parser.error("command needs -- and what to run")
    return options


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def main() -> int:
    options = parse()
    try:
        names = interpreters.select([name for name in options.only.split(",") if name])
    except SetupError as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 2
    matrix = Matrix(options, names)

    def interrupted(number: int, frame: types.FrameType | None) -> None:
        if matrix.stopped:
            os._exit(128 + number)
        matrix.stop()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    matrix.run()
    status = report(matrix)
    if matrix.stopped:
        print("matrix: interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
