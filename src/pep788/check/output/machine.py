"""JSON: the report as it is; the format has a version, and fields are only ever added to it."""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import Any, Dict

from ..model import Finding, Report, Span

FORMAT_VERSION = 1

_PLACES = {  # a binary has none
    "line": "line",
    "column": "column",
    "end_line": "end_line",
    "end_column": "end_column",
    "byte_start": "start",
    "byte_end": "end",
}


def write(report: Report) -> str:
    return json.dumps(
        {
            "format": FORMAT_VERSION,
            "files": report.files,
            "lines": report.lines,
            "statistics": dict(sorted(collections.Counter(finding.rule for finding in report.findings).items())),
            "suppressed": report.suppressed,
            "hidden_notes": report.hidden_notes,
            "in_baseline": report.in_baseline,
            "findings": [_finding(finding) for finding in report.findings],
            "comments": [{**_span(one.span), "message": one.message} for one in report.comments],
            "skipped": [dataclasses.asdict(skip) for skip in report.skipped],
        },
        indent=2,
    )


def _finding(finding: Finding) -> Dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "confidence": finding.confidence.value,
        **_span(finding.span),
        "function": finding.function,
        "message": finding.message,
        "help": finding.help,
        "related": [{**_span(other.span), "message": other.message} for other in finding.related],
        "fix": finding.fix.value if finding.edits else None,
        "edits": [{"byte_start": e.start, "byte_end": e.end, "text": e.text} for e in finding.edits],
        "data": finding.data,
    }


def _span(span: Span) -> Dict[str, Any]:
    return {
        "path": span.path,
        **({name: getattr(span, field) for name, field in _PLACES.items()} if span.line else {}),
    }
