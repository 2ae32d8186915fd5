"""Show what happens to native threads that call into Python while it shuts down.

Real threads from real libraries, against the interpreter at hand, with the old API and with that of
PEP 788. Each cell of the table is a number of fresh processes that fall off the end of the script
while callbacks are in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence

from .._console import ParagraphHelp, seconds, whole_number
from .._processes import no_core_files
from . import _build, _programs, _report
from ._run import OUTCOMES, Cell, run_cell

__all__ = ["main"]

EPILOG = """\
A cell counts processes; 15/20 SIGABRT: of 20 processes 15 were ended by that signal.

outcomes:
  ok            exit status 0, and every native thread came back to its own code
  SIGSEGV ...   the process crashed
  hang          the process did not end
  lost threads  exit status 0, but native threads were killed or frozen while they were in Python
  parked        native threads sleep in PyGILState_Ensure until the process is gone, because it
                cannot say no; what a merely recompiled extension is promised, and good there

Exit status: 0 if all is well with pep788, 1 if not, 2 if the demo cannot run, 130 after Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; usage errors end in SystemExit(2) by argparse."""
    options = _parser().parse_args(argv)
    try:
        _build.check_setup()
    except _build.SetupError as error:
        print(f"pep788 demo: {error}", file=sys.stderr)
        return 2
    no_core_files()
    programs = [program for program in _programs.ALL if not options.only or program.key in options.only]
    return _Demo(programs, _build.columns(), options).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pep788 demo",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=ParagraphHelp,
    )
    keys = [program.key for program in _programs.ALL]
    runs = os.environ.get("PEP788_DEMO_RUNS") or "20"
    parser.add_argument(
        "--runs",
        type=whole_number,
        default=runs,
        metavar="N",
        help="processes a cell (default: $PEP788_DEMO_RUNS or 20)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default="10",
        metavar="S",
        help="a process that takes longer hangs (default: 10)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=keys,
        metavar="PROGRAM",
        help=f"one of {', '.join(keys)}; repeat for more",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser


class _Demo:
    """One run of the demo, from compiling to the table."""

    def __init__(
        self,
        programs: list[_programs.Program],
        columns: list[_build.Column],
        options: argparse.Namespace,
    ) -> None:
        self._programs, self._columns, self._options = programs, columns, options
        self._cells: _report.Cells = {}
        self._remedies: dict[str, None] = {}  # in the order they came up, each once
        self._progress = _report.Progress(len(programs) * len(columns) * options.runs, sys.stderr)

    def run(self) -> int:
        interrupted = 0
        previous = signal.signal(signal.SIGTERM, _terminated)
        try:
            with tempfile.TemporaryDirectory(prefix="pep788-demo-") as scratch:
                self._fill(pathlib.Path(scratch))
        except KeyboardInterrupt as stop:
            interrupted = 128 + (stop.args[0] if stop.args else signal.SIGINT)
        finally:
            signal.signal(signal.SIGTERM, previous)
            self._progress.close()
        self._print(bool(interrupted))
        return interrupted or (2 if self._is_broken() else 0 if self._is_well() else 1)

    def _fill(self, scratch: pathlib.Path) -> None:
        for program in self._programs:
            for column in self._columns:
                target = scratch / program.key / column.key
                target.mkdir(parents=True)
                self._fill_cell(program, column, target)

    def _fill_cell(self, program: _programs.Program, column: _build.Column, target: pathlib.Path) -> None:
        what = f"{program.title} | {column.title}"
        cell = Cell(program.key, column.key)
        self._progress.say(f"{what}: compiling")
        try:
            job = program.prepare(column, target)
        except (_programs.Unavailable, _build.SetupError) as problem:
            cell.skipped = getattr(problem, "reason", "no compiler")
            self._remedies[f"{program.title}, {cell.skipped}: {getattr(problem, 'remedy', problem)}"] = None
            self._progress_skip(self._options.runs)
        self._cells[program.key, column.key] = cell
        if not cell.skipped:
            tell = lambda: self._progress.step(f"{what}: {_report.verdict(cell)}")  # noqa: E731
            run_cell(cell, job, target, self._options.runs, self._options.timeout, tell)
            self._progress_skip(self._options.runs - len(cell.runs))
        self._progress.finish(f"{what}: {_report.verdict(cell)}")

    def _progress_skip(self, runs: int) -> None:
        for _ in range(runs):
            self._progress.step("")

    def _is_well(self) -> bool:
        """Every judged cell that ran is free of bad outcomes, and some judged cell ran."""
        judged = [cell for cell in self._cells.values() if self._judged(cell) and cell.runs]
        bad = any(cell.count(outcome) for cell in judged for outcome in ("lost", "crash", "hang", "error"))
        parked = any(cell.count("parked") for cell in judged if cell.column != _build.RECOMPILED.key)
        return bool(judged) and not (bad or parked or self._is_broken())

    def _is_broken(self) -> bool:
        return any(cell.skipped in ("does not compile", "no compiler") for cell in self._cells.values())

    def _judged(self, cell: Cell) -> bool:
        return any(column.judged and column.key == cell.column for column in self._columns)

    def _print(self, interrupted: bool) -> None:
        if self._options.json:
            print(json.dumps(self._as_dict(interrupted), indent=2))
            return
        python, runs = platform.python_version(), self._options.runs
        title = f"CPython {python}{' (interrupted)' * interrupted}: "
        title += f"{runs} processes a cell, ended while native threads call back"
        _report.show(self._programs, self._columns, self._cells, title, list(self._remedies))

    def _as_dict(self, interrupted: bool) -> dict[str, object]:
        return {
            "python": platform.python_version(),
            "executable": sys.executable,
            "runs": self._options.runs,
            "timeout": self._options.timeout,
            "interrupted": interrupted,
            "ok": self._is_well(),
            "outcomes": OUTCOMES,
            "columns": {column.key: column.title for column in self._columns},
            "programs": [
                {
                    "program": program.key,
                    "title": program.title,
                    "cells": {
                        column.key: self._cells[program.key, column.key].as_dict()
                        for column in self._columns
                        if (program.key, column.key) in self._cells
                    },
                }
                for program in self._programs
            ],
            "notes": list(self._remedies),
        }


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)
