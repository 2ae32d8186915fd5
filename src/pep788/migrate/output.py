"""The report for people, on stderr beside a diff, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Dict, Iterator, List, Sequence

from ..check.model import Edit
from . import edits
from .model import Outcome, Report, Site

FORMAT_VERSION = 1


def diff(report: Report) -> bytes:
    return b"".join(edits.diff(path, report.before[path], after) for path, after in sorted(report.after.items()))


def text(report: Report, written: bool) -> str:
    lines: List[str] = []
    for site in report.sites:
        lines += _site(site)
    for view in report.views:
        where = f" ({view.path}:{view.line})" if view.path else ""
        lines.append(f"view {view.expression}: {view.how}{where}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"{skip.path}: skipped: {skip.reason}" for skip in report.skipped]
    return "\n".join([*lines, summary(report, written)])


def _site(site: Site) -> Iterator[str]:
    head = f"{site.span.path}:{site.span.line}: {site.function or '?'}: {site.outcome.value}"
    yield f"{head}: {site.reason}" if site.reason else head
    for option in site.options:
        yield f"    answer: {option}"
    for note in site.notes:
        yield f"    note: {note}"


def summary(report: Report, written: bool) -> str:
    counts = ", ".join(f"{report.count(outcome)} {outcome.value}" for outcome in Outcome)
    files = _count(len(report.after), "file")
    done = (
        f"{files} written" if written else f"{files} to be changed (--apply writes)" if report.after else "no changes"
    )
    return f"{_count(len(report.sites), 'site')}: {counts}; {done}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def as_json(report: Report, written: bool) -> str:
    """Fields are only ever added; `diff` is for reading, in UTF-8 with replacements: write files with --apply."""
    return json.dumps(
        {
            "format": FORMAT_VERSION,
            "written": written,
            "counts": {outcome.value: report.count(outcome) for outcome in Outcome},
            "sites": [_json_site(site) for site in report.sites],
            "views": [dataclasses.asdict(view) for view in report.views],
            "notes": report.notes,
            "set_up": {path: _edits(found) for path, found in sorted(report.set_up.items())},
            "skipped": [dataclasses.asdict(skip) for skip in report.skipped],
            "changed": sorted(report.after),
            "diff": diff(report).decode("utf-8", "replace"),
        },
        indent=2,
    )


def _json_site(site: Site) -> Dict[str, object]:
    return {
        "path": site.span.path,
        "line": site.span.line,
        "column": site.span.column,
        "byte_start": site.span.start,
        "byte_end": site.span.end,
        "function": site.function,
        "outcome": site.outcome.value,
        "reason": site.reason,
        "options": list(site.options),
        "notes": list(site.notes),
        "view": site.view,
        "edits": _edits(site.edits),
    }


def _edits(found: Sequence[Edit]) -> List[Dict[str, object]]:
    return [{"byte_start": edit.start, "byte_end": edit.end, "text": edit.text} for edit in found]
