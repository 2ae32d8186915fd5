"""Code frames for people, one for each finding, and totals."""

from __future__ import annotations

import collections
import dataclasses
from typing import Iterator, List

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..model import Confidence, Finding, Fix, Report, Severity, Span
from ..registry import RULES

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
TAB = "    "


@dataclasses.dataclass(frozen=True)
class View:
    """What to show: only counts; every file that was skipped; fixes that may change the meaning."""

    statistics: bool = False
    skipped: bool = False
    unsafe: bool = False


def write(report: Report, console: Console, view: View) -> None:
    if not view.statistics:
        for finding in report.findings:
            _finding(finding, report, console, view)
        _why(report, console)
    _table(report, console)
    _skipped(report, console, view.skipped)
    for comment in report.comments:
        where = f"{comment.span.path}:{comment.span.line}"
        console.print(Text(printable(f"{where}: {comment.message}"), "yellow"), soft_wrap=True)
    console.print(summary(report), soft_wrap=True, markup=False)
    for line in fixable(report, view.unsafe):
        console.print(line, soft_wrap=True, markup=False)


def _finding(finding: Finding, report: Report, console: Console, view: View) -> None:
    span = finding.span
    path = printable(span.path)
    where = f"{path}:{span.line}:{span.column}" if span.line else path
    kind = (f"{finding.severity.value}[{finding.rule}]", COLOURS[finding.severity])
    head = Text.assemble((where, "bold"), ": ", kind)
    sure = "" if finding.confidence is Confidence.HIGH else " (less certain: not all it depends on was understood)"
    head.append(f" {printable(finding.message)}{sure}")
    console.print(head, soft_wrap=True)
    if span.path in report.frames and span.line:
        for line in frame(report.frames[span.path], span):
            console.print(Text("  " + line), soft_wrap=True)
    for other in finding.related[:3]:
        console.print(Text(f"  {other.message}: {printable(other.span.path)}:{other.span.line}", "dim"), soft_wrap=True)
    console.print(Text.assemble("  ", ("help: ", "cyan"), finding.help), soft_wrap=True)
    if finding.fix is Fix.SAFE or view.unsafe:
        for line in _edits(finding, report.frames.get(span.path, b"")):
            console.print(Text.assemble("  ", (f"fix ({finding.fix.value}): ", "green"), line), soft_wrap=True)
    console.print()


def _edits(finding: Finding, data: bytes) -> Iterator[str]:
    for edit in finding.edits:
        line = data.count(b"\n", 0, edit.start) + 1
        old = data[edit.start : edit.end].decode("utf-8", "replace")
        new = printable(" ".join(edit.text.split()))
        yield f"line {line}: {printable(old)} becomes {new}" if old else f"line {line}: insert {new}"


def _why(report: Report, console: Console) -> None:
    for rule in sorted({finding.rule for finding in report.findings}):
        console.print(Text.assemble((f"{rule} {RULES[rule].name}", "bold"), f": {RULES[rule].why}"), soft_wrap=True)
    if report.findings:
        console.print()


def frame(data: bytes, span: Span) -> List[str]:
    """The first line of the span with a mark below what it covers."""
    line = data.split(b"\n")[span.line - 1].decode("utf-8", "replace").rstrip("\r")
    end = span.end_column if span.end_line == span.line else len(line) + 1
    before = printable(line[: span.column - 1])
    marked = printable(line[span.column - 1 : max(end - 1, span.column)])
    number = str(span.line)
    return [
        f"{number} | {printable(line)}",
        f"{' ' * len(number)} | {' ' * len(before)}{'^' * max(1, len(marked))}",
    ]


def printable(text: str) -> str:
    """No control character of a checked file reaches the terminal."""
    return "".join(c if c.isprintable() else TAB if c == "\t" else "?" for c in text)


def _table(report: Report, console: Console) -> None:
    counts = collections.Counter(finding.rule for finding in report.findings)
    if not counts:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("rule", "severity", "findings", "files", "what"):
        table.add_column(heading, justify="right" if heading in ("findings", "files") else "left")
    for rule, count in sorted(counts.items()):
        files = len({finding.span.path for finding in report.findings if finding.rule == rule})
        severity = RULES[rule].severity
        level = Text(severity.value, COLOURS[severity])
        table.add_row(rule, level, str(count), str(files), RULES[rule].summary)
    console.print(table)
    console.print()


def _skipped(report: Report, console: Console, show: bool) -> None:
    for skip in report.skipped if show else report.lossy:
        console.print(Text(printable(f"{skip.path}: not checked: {skip.reason}"), "dim"), soft_wrap=True)


def summary(report: Report) -> str:
    """One line of totals; what was not checked is always among them."""
    found = _count(len(report.findings), "finding")
    parts = [f"{found} in {_count(report.files, 'file')}, {_count(report.lines, 'line')}"]
    kinds = collections.Counter(skip.kind for skip in report.skipped)
    if kinds:
        parts.append("skipped: " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())))
    if report.suppressed:
        parts.append(f"{report.suppressed} suppressed by comments")
    if report.hidden_notes:
        parts.append(f"{_count(report.hidden_notes, 'note')} not shown (--notes)")
    if report.in_baseline:
        parts.append(f"{report.in_baseline} in the baseline")
    return "; ".join(parts)


def fixable(report: Report, unsafe: bool) -> Iterator[str]:
    """What could be done by a program, the fixes that are not shown included."""
    kinds = collections.Counter(finding.fix for finding in report.findings if finding.edits)
    if kinds[Fix.SAFE]:
        yield f"{_fixes(kinds[Fix.SAFE], 'safe')} shown, and in --format sarif"
    if kinds[Fix.UNSAFE]:
        where = "shown, and in --format sarif" if unsafe else "hidden (--unsafe-fixes)"
        yield f"{_fixes(kinds[Fix.UNSAFE], 'unsafe')} {where}: look whether the meaning stays"
    if kinds[Fix.DISPLAY]:
        yield f"{_fixes(kinds[Fix.DISPLAY], 'display-only')} {'shown' if unsafe else 'hidden (--unsafe-fixes)'}"
    rewritten = sorted({finding.rule for finding in report.findings if finding.rule in MIGRATED})
    if rewritten:
        yield f"pep788 migrate shows what of {', '.join(rewritten)} it can rewrite"


MIGRATED = ("P101", "P104", "P105", "P111", "P121", "P122")


def _fixes(number: int, kind: str) -> str:
    return f"{number} {kind} fix" if number == 1 else f"{number} {kind} fixes"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
