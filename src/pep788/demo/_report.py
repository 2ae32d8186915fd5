"""Live progress, the final table, and one line for each thing in it that needs a word."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from .._console import has_colours, terminal_columns
from ._build import ALWAYS, NATIVE, NEW, OLD, RECOMPILED, Column
from ._programs import Program
from ._run import Cell, Run

Cells = dict[tuple[str, str], Cell]

GREEN, RED, YELLOW, DIM = "green", "red", "yellow", "dim"
LEAST_WIDTH = 12
_ANSI = {GREEN: "32", RED: "31", YELLOW: "33", DIM: "2"}

LEGEND = {
    OLD.key: "the old API, PyGILState_Ensure/Release, as nearly all extensions have it today",
    NEW.key: "PyThreadState_EnsureFromView/Release from pep788.h; NULL is a no, the thread goes on",
    ALWAYS.key: "the same with PEP788_ALWAYS: the implementation of pep788.h, not the native one",
    RECOMPILED.key: "the old source, built with -include pep788.h -DPEP788_REPLACE_GILSTATE",
}


def _rich(module: str) -> Any:
    """A module of rich, or None: it is used when it is there, and never required."""
    return importlib.import_module(f"rich.{module}") if importlib.util.find_spec("rich") else None


class Verdict(NamedTuple):
    """What the table shows in a cell, a line for each kind of outcome, and in which colour."""

    lines: tuple[str, ...]
    colour: str

    def __str__(self) -> str:
        return ", ".join(self.lines)


def verdict(cell: Cell | None) -> Verdict:
    """Count processes: "15/20 lost threads" is 15 of 20 processes, whatever the number of threads."""
    if cell is None:
        return Verdict(("not run",), DIM)
    if cell.skipped:
        return Verdict((cell.skipped,), DIM)
    if not cell.runs:
        return Verdict(("interrupted",), DIM)
    counts = [(n, name) for name, n in cell.details("crash").most_common()]
    counts += [(cell.count(outcome), word) for outcome, word in _WORDS if cell.count(outcome)]
    bad = any(cell.count(outcome) for outcome in ("crash", "hang", "lost", "error"))
    colour = RED if bad else YELLOW if cell.count("parked") else GREEN
    return Verdict(tuple(f"{n}/{len(cell.runs)} {word}" for n, word in counts), colour)


_WORDS = (
    ("hang", "hang"),
    ("error", "error"),
    ("lost", "lost threads"),
    ("parked", "parked"),
    ("ok", "ok"),
)

OK = "exit status 0, and every native thread came back to its own code"
KILLED = "exit status 0, but CPython ended native threads with pthread_exit"
FROZEN = "exit status 0, but native threads stopped in the middle of a callback"
PARKED = (
    "native threads sleep in PyGILState_Ensure until the process ends, because it cannot say no: "
    "nothing crashes or unwinds, but a library that joins them waits for ever"
)
UNWOUND = "CPython ended the thread with pthread_exit, and the unwinding met a noexcept C++ frame"
CODE_STOPS = "the C code after the call never runs, and what it has locked stays locked"


def explain(cell: Cell) -> list[tuple[str, str]]:
    """A word of the table and what it stands for, for each kind of outcome of this cell."""
    lines = [("ok", OK)] if cell.count("ok") else []
    lines += [(run.detail, _crash(run)) for run in cell.runs if run.outcome == "crash"]
    if cell.total("killed", "lost"):
        lines.append(("lost threads", f"{KILLED}: {CODE_STOPS}"))
    if cell.total("frozen", "lost"):
        lines.append(("lost threads", f"{FROZEN}: {CODE_STOPS}"))
    if cell.count("parked"):
        lines.append(("parked", PARKED))
    if cell.count("hang"):
        lines.append(("hang", "the process did not end and was killed"))
    lines += [("error", f"{run.detail}: {_last_words(run)}") for run in cell.runs if run.outcome == "error"]
    return list(dict.fromkeys(lines))


def _crash(run: Run) -> str:
    fatal = [line for line in run.said.splitlines() if "Fatal Python error" in line]
    if "terminate called" in run.said or "exception not rethrown" in run.said:
        return UNWOUND
    if fatal:
        return fatal[0]
    if run.detail in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL"):
        return "a callback got into an interpreter that was being torn down, or was gone"
    return _last_words(run)


def _last_words(run: Run) -> str:
    return run.said.splitlines()[-1] if run.said else "no message"


# --- progress ------------------------------------------------------------------------------------


class Progress:
    """One line that moves on a terminal, one line a finished cell elsewhere."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._done, self._stream = total, 0, stream
        self._live = stream.isatty()
        self._bar: Any = None
        self._task: Any = None
        if self._live and (module := _rich("progress")) is not None:
            console = _rich("console").Console(file=stream)
            fields = (
                "[progress.description]{task.description}",
                module.BarColumn(),
                "{task.completed}/{task.total}",
            )
            self._bar = module.Progress(*fields, module.TimeElapsedColumn(), console=console, transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def say(self, what: str) -> None:
        """What is going on now."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)
        elif self._live:
            line = f"{self._done}/{self._total}  {what}"
            # A line that reaches the last column wraps, and what has wrapped cannot be overwritten.
            self._stream.write(f"\r\x1b[K{line[: terminal_columns() - 1]}")
            self._stream.flush()

    def step(self, what: str) -> None:
        """One process has ended."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        self.say(what)

    def finish(self, what: str) -> None:
        """A cell is complete."""
        if not self._live:
            self._stream.write(what + "\n")
            self._stream.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


# --- table ---------------------------------------------------------------------------------------


def show(
    programs: Sequence[Program],
    columns: Sequence[Column],
    cells: Cells,
    title: str,
    notes: list[str],
) -> None:
    """Print the table, what explains it, and what it comes to, to stdout."""
    rows = [[verdict(cells.get((program.key, column.key))) for column in columns] for program in programs]
    headings = ["program", *(column.title for column in columns)]
    names = [program.title for program in programs]
    table = _rich("table")
    if table is not None and sys.stdout.isatty():
        _show_rich(table, headings, names, rows, title)
    else:
        _show_plain(headings, names, rows, title)
    _definitions("columns", [(column.title, _legend(column)) for column in columns])
    words = [line for program in programs for column in columns for line in _explained(cells, program, column)]
    _definitions("outcomes, counted in processes", sorted(dict.fromkeys(words), key=lambda line: line[0] != "ok"))
    for note in notes:
        print()
        for line in note.splitlines():
            # Commands among them are to be copied: no word is broken.
            print(
                textwrap.fill(
                    line, terminal_columns(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
                )
            )
    print()
    print(textwrap.fill(conclusion(columns, cells), terminal_columns()))


def conclusion(columns: Sequence[Column], cells: Cells) -> str:
    """One line: how many processes ended well, column by column, the old API last."""
    parts: list[str] = []
    for column in sorted(columns, key=lambda column: column is OLD):
        own = [cell for (_, key), cell in cells.items() if key == column.key]
        runs, parked = sum(len(cell.runs) for cell in own), sum(cell.count("parked") for cell in own)
        well = sum(cell.count("ok") for cell in own) + parked * (column is RECOMPILED)
        if runs:
            parts.append(f"{column.title}: {well} of {runs}" + (" processes ended well" if not parts else ""))
    return "; ".join(parts) or "no process was run"


def _explained(cells: Cells, program: Program, column: Column) -> list[tuple[str, str]]:
    cell = cells.get((program.key, column.key))
    return explain(cell) if cell is not None else []


def _definitions(heading: str, lines: list[tuple[str, str]]) -> None:
    if not lines:
        return
    width = max(len(word) for word, _ in lines)
    print(f"\n{heading}:")
    for word, meaning in lines:
        first = f"  {word.ljust(width)}  "
        print(textwrap.fill(meaning, terminal_columns(), initial_indent=first, subsequent_indent=" " * len(first)))


def _legend(column: Column) -> str:
    return (
        LEGEND[column.key].replace("from pep788.h", "from CPython itself") if column is NATIVE else LEGEND[column.key]
    )


def _show_rich(
    module: Any,
    headings: list[str],
    names: list[str],
    rows: list[list[Verdict]],
    title: str,
) -> None:
    text = _rich("text").Text
    table = module.Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading)
    for name, row in zip(names, rows):
        table.add_row(name, *(text("\n".join(lines), style=colour) for lines, colour in row))
    _rich("console").Console().print(table)


def _show_plain(headings: list[str], names: list[str], rows: list[list[Verdict]], title: str) -> None:
    colours = has_colours()
    table = [[Verdict((name,), ""), *row] for name, row in zip(names, rows)]
    cells = [[(heading,) for heading in headings], *([cell.lines for cell in row] for row in table)]
    widths = _fitted([max(len(line) for cell in column for line in cell) for column in zip(*cells)])
    print(textwrap.fill(title, terminal_columns()))
    print()
    _print_row([Verdict((heading,), "") for heading in headings], widths, False)
    print("  ".join("-" * width for width in widths))
    for row in table:
        _print_row(row, widths, colours)


def _fitted(widths: list[int]) -> list[int]:
    """Make the widest columns narrower until the row fits the terminal; a column keeps room for its words."""
    widths = list(widths)
    while sum(widths) + 2 * (len(widths) - 1) > terminal_columns() and max(widths) > LEAST_WIDTH:
        widths[widths.index(max(widths))] -= 1
    return widths


def _print_row(row: Sequence[Verdict], widths: Sequence[int], colours: bool) -> None:
    wrapped = [[part for line in cell.lines for part in textwrap.wrap(line, width)] for cell, width in zip(row, widths)]
    for number in range(max(map(len, wrapped))):
        parts = [lines[number] if number < len(lines) else "" for lines in wrapped]
        painted = [
            _painted(part, width, cell.colour if colours and part else "")
            for part, width, cell in zip(parts, widths, row)
        ]
        print("  ".join(painted).rstrip())


def _painted(words: str, width: int, colour: str) -> str:
    padding = " " * (width - len(words))
    return f"\x1b[{_ANSI[colour]}m{words}\x1b[0m{padding}" if colour else words + padding
