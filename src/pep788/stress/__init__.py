"""Run a program many times to its end and say how often it crashes, hangs or loses threads there, where, and why.

Each run is a process of its own.  Unless --no-amplify is given, the windows in which a late thread meets the
finalization of the interpreter are made wider by pauses, which a correct program does not notice.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from .._console import ParagraphHelp, has_colours, seconds, terminal_columns, whole_number
from .._processes import why_not_run
from . import _html, _interpreters, _report, _stats
from ._child import Limits, SetupError
from ._interpreters import NotFoundError
from ._runner import Cell, Plan, Runner, default_seed
from ._verdict import VERDICTS

__all__ = ["VERDICTS", "NotFoundError", "SetupError", "main", "run"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

USAGE_TEXT = """pep788 stress [options] -- python app.py ...
       pep788 stress [options] -m MODULE ...
       pep788 stress --compare [options] -- COMMAND -- OTHER COMMAND"""
EPILOG = """verdicts: ok; crash: killed by a signal; hang: not gone in time after finalization began;
lost: it ended, but native threads never came back from Python (up to CPython 3.13.7 they are ended inside their own
frames, later they sleep for ever); status: another exit status than --status.

Exit status: 0 no failure, 1 failures (with --compare: of the second command), 2 wrong usage or nothing could be run,
130 after Ctrl-C, with the report so far."""

FORMATS = ("text", "json", "junit", "html")
ENDINGS = {".json": "json", ".xml": "junit", ".html": "html", ".htm": "html"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; usage errors end in SystemExit(2) by argparse."""
    options = _parse(list(sys.argv[1:] if argv is None else argv))
    try:
        return _stress(options)
    except (NotFoundError, SetupError) as problem:
        print(f"pep788 stress: {problem}", file=sys.stderr)
        return USAGE


def run(
    command: Sequence[str],
    *,
    runs: int = 100,
    timeout: float = 10.0,
    limit: float = 600.0,
    amplify: bool = True,
    status: int = 0,
    seed: int | None = None,
    jobs: int | None = None,
    label: str = "",
) -> _report.Report:
    """Run a command many times to its end, as ``pep788 stress`` does, and return the report.

    ``timeout`` is in seconds from the moment that finalization begins, ``limit`` for a whole run; ``label`` is what the
    report calls the command.  ``report.failed`` says whether a run failed.  SetupError if the command cannot be run,
    ValueError for numbers that make no sense.
    """
    numbers = {"runs": runs, "jobs": jobs, "seed": seed, "timeout": timeout, "limit": limit}
    for name, number in numbers.items():
        if number is not None and not number > 0:  # also refuses nan
            raise ValueError(f"{name} must be above 0, not {number}")
    plan = Plan(
        runs=runs,
        jobs=jobs or default_jobs(),
        seed=seed or default_seed(),
        amplify=amplify,
        limits=Limits(timeout, limit),
        status=status,
        embed=False,
        stacks=True,
        probe=find_probe(),
    )
    return _fill(plan, [Cell(label or _label(command), list(command))], compare=False, stream=None)


def _stress(options: argparse.Namespace) -> int:
    plan = Plan(
        runs=options.runs,
        jobs=options.jobs,
        seed=options.seed or default_seed(),
        amplify=options.amplify,
        limits=Limits(options.timeout, options.limit),
        status=options.status,
        embed=options.embed,
        stacks=options.stacks,
        probe=find_probe(),
    )
    cells = [Cell(label, words) for label, words in _columns(options)]
    with _stopping():
        report = _fill(plan, cells, options.compare, sys.stderr)
    _write(report, options)
    return INTERRUPTED if report.interrupted else FAILED if report.failed else OK


def _fill(plan: Plan, cells: list[Cell], compare: bool, stream: TextIO | None) -> _report.Report:
    """Do all runs.  With a ``stream``, for a person: progress goes there, and Ctrl-C ends it with the report so far."""
    if sys.platform == "win32":
        raise SetupError("needs POSIX: process groups, signals, LD_PRELOAD. Run it in a Linux container, or in WSL")
    began = time.monotonic()
    progress = _Progress(cells, plan, stream)
    runner = Runner(plan, progress.tell)
    interrupted = False
    with progress:
        for cell in cells:
            try:
                runner.fill(cell)
            except KeyboardInterrupt:
                if stream is None:
                    raise
                interrupted = True
                break
            except OSError as error:
                raise SetupError(why_not_run(cell.argv[0], error)) from error
    return _report.Report(plan, cells, compare, interrupted, time.monotonic() - began)


def default_jobs() -> int:
    """As many at once as there are processors, but two."""
    return max(2, os.cpu_count() or 2)


def find_probe() -> pathlib.Path | None:
    """The library that is preloaded, or None where it is not built (macOS)."""
    return next(iter(sorted(pathlib.Path(__file__).resolve().parent.glob("_probe*.so"))), None)


def _write(report: _report.Report, options: argparse.Namespace) -> None:
    problem = None
    if options.output is not None:
        try:
            options.output.write_text(render(report, options.format), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            problem = SetupError(f"{options.output} cannot be written ({error.strerror}): the report is above")
    if options.output is None and options.format != "text":
        print(render(report, options.format), end="")
    elif options.output is None or options.format != "text" or problem:
        width = min(_report.WIDTH, terminal_columns(_report.WIDTH))
        print(_report.as_text(report, has_colours(), width), end="")
    if problem is not None:
        raise problem
    if options.output is not None:
        print(f"written: {options.output}", file=sys.stderr)


def render(report: _report.Report, format_name: str) -> str:
    """The report in one of FORMATS, for a file."""
    if format_name == "json":
        return _report.as_json(report)
    if format_name == "junit":
        return _report.as_junit(report)
    if format_name == "html":
        return _html.as_html(report)
    return _report.as_text(report)


def _columns(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Label and command of each cell; with --compare the two commands take turns."""
    commands = options.commands
    names = [" (before)", " (after)"] if options.compare else [""]
    if not options.pythons:
        labels = ["before", "after"] if options.compare else [_label(commands[0])]
        return list(zip(labels, commands))
    columns = []
    for name in options.pythons:
        executable = _interpreters.find(name)
        version = _interpreters.version_of(executable)
        columns += [(f"{version}{suffix}", [executable, *words[1:]]) for suffix, words in zip(names, commands)]
    return columns


def _label(words: Sequence[str]) -> str:
    text = " ".join(" ".join([pathlib.PurePath(words[0]).name, *words[1:]]).split())  # -c takes lines
    return _report.shortened(_report.printable(text), 40)


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: with the report so far, and without children left."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Progress:
    """Rates so far and the time left: a line that moves on a terminal, one a finished cell elsewhere."""

    def __init__(self, cells: Sequence[Cell], plan: Plan, stream: TextIO | None) -> None:
        self._total, self._runs = len(cells) * plan.runs, plan.runs
        self._stream = stream or io.StringIO()
        self._live = self._stream.isatty()
        self._done, self._began, self._shown = 0, time.monotonic(), 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def tell(self, cell: Cell) -> None:
        """Called after each run, one at a time."""
        self._done += 1
        runs, failures = len(cell.runs), cell.failures
        now = time.monotonic()
        left = (now - self._began) / self._done * (self._total - self._done)
        text = f"{failures} of {runs} failed ({_report.rate(failures, runs)})"
        if self._live and (now - self._shown > 0.1 or runs == self._runs):
            self._shown = now
            line = f"{self._done}/{self._total}, {left:.0f} s left: {text}, {cell.label}"
            # A line that reaches the last column wraps, and what has wrapped cannot be overwritten.
            self._stream.write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1])
            self._stream.flush()
        elif not self._live and runs == self._runs:
            print(f"{cell.label}: {text}", file=self._stream, flush=True)


# --- the command line -----------------------------------------------------------------------------------------------


def _parse(argv: list[str]) -> argparse.Namespace:
    mine, commands, module = _split(argv)
    parser = _parser()
    options, unknown = parser.parse_known_args(mine)
    if unknown:
        hint = "" if unknown[0].startswith("-") else "; the command comes after --: pep788 stress -- python app.py"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if module == ["-m"]:
        parser.error("-m needs the name of a module")
    if module:
        commands = [[sys.executable, *module]]
    if options.compare and len(commands) != 2:
        parser.error(f"--compare needs two commands, each after --; got {len(commands)}")
    if not commands or not all(commands):
        parser.error("say what to run, after --: pep788 stress -- python app.py")
    for words in commands:
        if options.pythons and options.embed:
            parser.error("--python cannot be had with --embed: the program has its interpreter inside")
        if options.pythons and not module and not _interpreters.is_python(words[0]):
            parser.error(f"--python replaces the first word of the command, which must be python, not {words[0]}")
        if words[0].endswith(".py") and not os.access(words[0], os.X_OK):
            parser.error(f"{words[0]} is no program: write python {words[0]}")
    if options.format is None:
        options.format = ENDINGS.get(options.output.suffix.lower() if options.output else "", "text")
    if options.until_confidence is not None:
        options.runs = _stats.runs_for(options.until_confidence, options.rate)
    options.commands = commands
    return options


def _split(argv: list[str]) -> tuple[list[str], list[list[str]], list[str]]:
    """Our own options, the commands after --, and -m with what follows it."""
    for at, word in enumerate(argv):
        if word == "--":
            mine, rest = argv[:at], argv[at + 1 :]
            if "--compare" in mine and "--" in rest:
                middle = rest.index("--")
                return mine, [rest[:middle], rest[middle + 1 :]], []
            return mine, [rest], []
        if word == "-m":
            return argv[:at], [], argv[at:]
    return argv, [], []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pep788 stress",
        usage=USAGE_TEXT,
        description=__doc__,
        epilog=EPILOG,
        formatter_class=ParagraphHelp,
    )
    add = parser.add_argument
    add("--runs", type=whole_number, default=100, metavar="N", help="processes of each command (default: 100)")
    add("--jobs", type=whole_number, default=default_jobs(), metavar="N", help="at once (default: processors)")
    add("--python", dest="pythons", action="append", default=[], metavar="X", help="a version or a path in place of "
        "the command's python; repeat for more")  # fmt: skip
    add("--compare", action="store_true", help="two commands, before and after, and whether they differ")
    add("--embed", action="store_true", help="the command is a program that embeds Python and may go on after it")
    add("--timeout", type=seconds, default=10.0, metavar="S", help="a hang: not gone that long after finalization "
        "began (default: 10)")  # fmt: skip
    add("--limit", type=seconds, default=600.0, metavar="S", help="a hang as well: the whole run (default: 600)")
    add("--status", type=int, default=0, metavar="N", help="the exit status it should have (default: 0)")
    add("--until-confidence", type=_percent, metavar="PERCENT", help="as many runs as prove, if none fails, a failure "
        "rate below --rate with this confidence")  # fmt: skip
    add("--rate", type=_percent, default="1", metavar="PERCENT", help="for --until-confidence (default: 1)")
    add("--no-amplify", dest="amplify", action="store_false", help="no pauses: the program as it is")
    add("--seed", type=whole_number, metavar="N", help="of the first run's pauses; the next count up (default: new)")
    add(
        "--no-stacks", dest="stacks", action="store_false", help="do not stop crashed and hung processes for a debugger"
    )
    add("--format", choices=FORMATS, help="default: by the ending of FILE, .json, .xml or .html, else text")
    add("-o", "--output", type=pathlib.Path, metavar="FILE", help="write the report there")
    return parser


def _percent(text: str) -> float:
    number = float(text.rstrip("%"))
    if not 0 < number < 100:
        raise ValueError(text)
    return number / 100


_percent.__name__ = "percentage between 0 and 100"
