"""SARIF 2.1.0, for code hosts and editors."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any, Dict, List, Sequence

from ..baseline import fingerprints
from ..ctree import _line_starts, span_of
from ..model import Finding, Report, Span
from ..registry import Rule


def write(report: Report, rules: Sequence[Rule], version: str, unsafe: bool = False) -> str:
    """With the safe fixes, and with those that may change the meaning if `unsafe`."""
    place = {rule.id: number for number, rule in enumerate(rules)}
    prints = fingerprints(report)
    driver = {"name": "pep788 check", "version": version, "rules": [_rule(rule) for rule in rules]}
    notes = [_notification(skip.path, f"not checked: {skip.reason}") for skip in report.lossy]
    notes += [_notification(one.span.path, f"line {one.span.line}: {one.message}") for one in report.comments]
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "results": [
            _result(finding, place[finding.rule], print_, unsafe, report.frames.get(finding.span.path, b""))
            for finding, print_ in zip(report.findings, prints)
        ],
    }
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2)


def _rule(rule: Rule) -> Dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} `pep788 check` has a page on each rule: docs/rules/{rule.id}.md."},
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _result(finding: Finding, index: int, fingerprint: str, unsafe: bool, data: bytes) -> Dict[str, Any]:
    result: Dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": finding.severity.value,
        "message": {"text": f"{finding.message} {finding.help}"},
        "locations": [{"physicalLocation": _location(finding.span)}],
        "partialFingerprints": {"pep788/v1": fingerprint},
        "properties": {"confidence": finding.confidence.value, "function": finding.function},
    }
    if finding.related:
        result["relatedLocations"] = [
            {"physicalLocation": _location(other.span), "message": {"text": other.message}} for other in finding.related
        ]
    if finding.fixed_by(unsafe):
        result["fixes"] = [_fix(finding, data)]
    return result


def _location(span: Span) -> Dict[str, Any]:
    location: Dict[str, Any] = {"artifactLocation": {"uri": _uri(span.path)}}
    if span.line:
        location["region"] = _region(span)
    return location


def _region(span: Span) -> Dict[str, Any]:
    return {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
        "byteOffset": span.start,
        "byteLength": span.end - span.start,
    }


def _fix(finding: Finding, data: bytes) -> Dict[str, Any]:
    lines = _line_starts(data)
    replacements: List[Dict[str, Any]] = [
        {
            "deletedRegion": _region(span_of(finding.span.path, data, lines, edit.start, edit.end)),
            "insertedContent": {"text": edit.text},
        }
        for edit in finding.edits
    ]
    change = {"artifactLocation": {"uri": _uri(finding.span.path)}, "replacements": replacements}
    return {"description": {"text": finding.help}, "artifactChanges": [change]}


def _notification(path: str, text: str) -> Dict[str, Any]:
    location = {"physicalLocation": {"artifactLocation": {"uri": _uri(path)}}}
    return {"level": "warning", "message": {"text": text}, "locations": [location]}


def _uri(path: str) -> str:
    return urllib.parse.quote(path)
