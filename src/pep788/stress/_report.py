"""The report as text, JSON or JUnit XML; as HTML in _html.py."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence

from . import _stats, _verdict
from ._record import STAGES
from ._runner import Cell, Group, Plan
from ._verdict import OK, VERDICTS

WIDTH = 100
LEAST_LABEL = 8
SAMPLE_LINES = 60
_NOT_XML = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ANSI = {"green": "32", "red": "31", "dim": "2", "bold": "1"}


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything there is to say."""

    plan: Plan
    cells: Sequence[Cell]
    compare: bool
    interrupted: bool
    seconds: float

    @property
    def failed(self) -> bool:
        """With --compare the second command is the one that must not fail."""
        judged = self.cells[1::2] if self.compare else self.cells
        return any(cell.failures for cell in judged)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def rate(count: int, runs: int) -> str:
    return f"{100 * count / runs:.3g} %" if runs else "-"


def bound(cell: Cell) -> str:
    """What the runs say of the true rate, at 95 % confidence."""
    if not cell.runs:
        return "no run"
    return f"<= {100 * _stats.upper_bound(cell.failures, len(cell.runs)):.3g} %"


def significance(before: Cell, after: Cell) -> str:
    """In words, what Fisher's exact test says of the two rates."""
    if not (before.runs and after.runs):
        return "nothing to compare"
    p = _stats.fisher(before.failures, len(before.runs), after.failures, len(after.runs))
    what = f"{before.failures} of {len(before.runs)} failed before, {after.failures} of {len(after.runs)} after"
    if p >= 0.05:
        return f"{what}: no difference that is more than chance (p = {p:.2g})"
    word = "fewer" if after.failures * len(before.runs) < before.failures * len(after.runs) else "MORE"
    return f"{what}: {word} failures, and not by chance (p = {p:.2g})"


# --- text ----------------------------------------------------------------------------------------------------


class _Style:
    def __init__(self, colours: bool, width: int) -> None:
        self._colours, self.width = colours, width

    def __call__(self, colour: str, text: str) -> str:
        text = printable(text)
        return f"\033[{_ANSI[colour]}m{text}\033[0m" if self._colours else text

    def wrap(self, text: str, indent: int = 2) -> list[str]:
        blanks = " " * indent
        return textwrap.wrap(
            printable(text), self.width, subsequent_indent=blanks, break_long_words=False, break_on_hyphens=False
        )


def as_text(report: Report, colours: bool = False, width: int = WIDTH) -> str:
    """Table, comparison, groups with one sample each, and what the numbers prove."""
    style = _Style(colours, width)
    lines = [*_table(report, style), ""]
    if report.compare:
        for before, after in zip(report.cells[::2], report.cells[1::2]):
            lines += style.wrap(f"{after.label}: {significance(before, after)}")
        lines.append("")
    number = 0
    for cell in report.cells:
        for group in ordered(cell):
            number += 1
            lines += [*_group(number, cell, group, style), ""]
    return "\n".join([*lines, *_notes(report, style)]).rstrip() + "\n"


def output_title(group: Group) -> str:
    """Who hangs is sent SIGABRT, so that faulthandler writes its stacks."""
    return "output; pep788 stress sent the SIGABRT at its end" if group.sample.hung else "output"


def ordered(cell: Cell) -> list[Group]:
    return sorted(cell.groups, key=lambda group: -len(group.runs))


def _table(report: Report, style: _Style) -> list[str]:
    heads = [
        "",
        "runs",
        *[verdict for verdict in VERDICTS if _is_used(report, verdict)],
        "failed",
        "true rate (95 %)",
        "",
    ]
    rows = []
    for cell in report.cells:
        counts = [str(cell.count(verdict) or ".") for verdict in VERDICTS if _is_used(report, verdict)]
        colour = "RED" if cell.failures else "GREEN" if cell.runs else "not run"
        rows.append(
            [cell.label, str(len(cell.runs)), *counts, rate(cell.failures, len(cell.runs)), bound(cell), colour]
        )
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    others = sum(widths[1:]) + 2 * len(widths[1:])
    widths[0] = min(widths[0], max(LEAST_LABEL, style.width - others))
    for row in rows:
        row[0] = shortened(row[0], widths[0])
    lines = ["  ".join(text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in
                       enumerate(zip(row, widths))).rstrip() for row in [heads, *rows]]  # fmt: skip
    painted = [style("red" if row[-1] == "RED" else "green", line) for row, line in zip(rows, lines[1:])]
    return [style("bold", lines[0]), *painted]


def _is_used(report: Report, verdict: str) -> bool:
    return verdict == OK or any(cell.count(verdict) for cell in report.cells)


def _group(number: int, cell: Cell, group: Group, style: _Style) -> Iterable[str]:
    failure = group.failure
    title = f"[{number}] {cell.label}: {len(group.runs)} of {len(cell.runs)} runs: {failure.title}"
    yield from (style("red", line) for line in style.wrap(title, 4))
    yield f"    verdict  {failure.verdict}: {VERDICTS[failure.verdict]}"
    yield f"    stage    {failure.stage}"
    yield from style.wrap(f"    why      {failure.why}", 13)
    yield from style.wrap(f"    do       {failure.advice}", 13)
    if failure.frames:
        yield "    frames   " + "\n             ".join(failure.frames[:8])
    yield f"    sample   run with seed {group.sample.seed}"
    for title, text in ((output_title(group), group.sample.stderr), ("stacks", group.sample.stacks)):
        kept = text.strip().splitlines()
        if kept:
            cut = [f"... {len(kept) - SAMPLE_LINES} more lines in --format json"] if len(kept) > SAMPLE_LINES else []
            shown = kept[:SAMPLE_LINES] if title == "stacks" else kept[-SAMPLE_LINES:]
            yield f"    {title}:"
            yield from (style("dim", f"      | {line[:160]}") for line in [*shown, *cut])


def _notes(report: Report, style: _Style) -> list[str]:
    notes = []
    for cell in report.cells:
        runs = len(cell.runs)
        if runs and not cell.failures:
            notes.append(
                f"{cell.label}: 0 of {runs} failed. That proves a failure rate below "
                f"{100 * _stats.upper_bound(0, runs):.2g} % with 95 % confidence, not that there is none."
            )
        if cell.unseen:
            notes.append(
                f"{cell.label}: in {cell.unseen} runs no Python was seen (python -I, -E, -S, or one that ended before "
                "site was imported): no stages, no lost threads, no amplifier there."
            )
    if report.plan.probe is None:
        notes.append("Without the probe (Linux with glibc or musl only) lost threads are not seen.")
    plan = report.plan
    seeds = f"seeds {plan.seed} to {plan.seed + plan.runs - 1}" if plan.amplify else "amplifier off"
    notes.append(f"{seeds}; {report.seconds:.0f} s{'; interrupted' if report.interrupted else ''}")
    if plan.amplify:
        notes.append("The same pauses once more: --seed SEED --runs 1.")
    return [line for note in notes for line in style.wrap(note)]


# --- for machines -------------------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """All runs, all groups, each with its sample."""
    return json.dumps(as_dict(report), indent=2) + "\n"


def as_dict(report: Report) -> dict[str, object]:
    plan = report.plan
    result: dict[str, object] = {
        "failed": report.failed,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "seed": plan.seed,
        "amplified": plan.amplify,
        "exit_limit_seconds": plan.limits.exit_s,
        "run_limit_seconds": plan.limits.run_s,
        "cells": [_cell(cell) for cell in report.cells],
    }
    if report.compare:
        result["comparison"] = [
            {
                "after": after.label,
                "p": _stats.fisher(before.failures, len(before.runs), after.failures, len(after.runs)),
                "text": significance(before, after),
            }
            for before, after in zip(report.cells[::2], report.cells[1::2])
            if before.runs and after.runs
        ]
    return result


def _cell(cell: Cell) -> dict[str, object]:
    return {
        "label": cell.label,
        "command": list(cell.argv),
        "python": cell.python,
        "counts": {verdict: cell.count(verdict) for verdict in VERDICTS},
        "failures": cell.failures,
        "rate_below": _stats.upper_bound(cell.failures, len(cell.runs)) if cell.runs else None,
        "runs": [dataclasses.asdict(run) for run in sorted(cell.runs, key=lambda run: run.seed)],
        "groups": [
            {
                **dataclasses.asdict(group.failure),
                "seeds": sorted(group.runs),
                "sample": {
                    "seed": group.sample.seed,
                    "status": group.sample.status,
                    "stderr": group.sample.stderr,
                    "stacks": group.sample.stacks,
                    "stages": [
                        [(STAGES[stage], *times) for stage, *times in _verdict.stages(record, group.sample.over_ns)]
                        for record in group.sample.records
                    ],
                    "lost_threads": [
                        dataclasses.asdict(loss) for record in group.sample.records for loss in record.losses
                    ],
                },
            }
            for group in ordered(cell)
        ],
    }


def as_junit(report: Report) -> str:
    """A test case a run, as build servers read it."""
    root = ElementTree.Element("testsuites")
    for cell in report.cells:
        suite = ElementTree.SubElement(
            root, "testsuite", name=printable(f"pep788 stress: {cell.label}"), tests=str(len(cell.runs)),
            failures=str(cell.failures), errors="0", time=f"{sum(run.seconds for run in cell.runs):.3f}",
        )  # fmt: skip
        groups = {seed: group for group in cell.groups for seed in group.runs}
        for run in sorted(cell.runs, key=lambda run: run.seed):
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=printable(shlex.join(cell.argv)),
                name=f"seed {run.seed}",
                time=f"{run.seconds:.3f}",
            )
            group = groups.get(run.seed)
            if group is not None:
                failure = group.failure
                element = ElementTree.SubElement(
                    case, "failure", type=failure.verdict, message=printable(failure.title)
                )
                element.text = printable("\n".join([failure.why, failure.advice, *failure.frames]))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def printable(text: str) -> str:
    """Without the characters that XML 1.0 cannot have, nor a terminal wants."""
    return _NOT_XML.sub("?", text)
