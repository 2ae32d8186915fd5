"""Annotations: lines on stdout that GitHub Actions shows at the code."""

from __future__ import annotations

from ..model import Finding, Report
from ..registry import RULES


def write(report: Report) -> str:
    lines = [_finding(finding) for finding in report.findings]
    lines += [
        f"::warning file={_property(skip.path)},title=not checked::{_message(skip.reason)}" for skip in report.lossy
    ]
    lines += [
        f"::warning file={_property(one.span.path)},line={one.span.line},title=suppression::{_message(one.message)}"
        for one in report.comments
    ]
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    kind = {"error": "error", "warning": "warning", "note": "notice"}[finding.severity.value]
    span = finding.span
    places = {"file": span.path, "title": f"{finding.rule} {RULES[finding.rule].name}"}
    if span.line:
        places.update(line=str(span.line), endLine=str(span.end_line), col=str(span.column))
        if span.line == span.end_line:
            places["endColumn"] = str(span.end_column)
    properties = ",".join(f"{name}={_property(value)}" for name, value in places.items())
    return f"::{kind} {properties}::{_message(f'{finding.message} {finding.help}')}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
