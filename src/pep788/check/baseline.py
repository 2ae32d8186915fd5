"""Known findings, kept in a file, so that only new ones fail a build.

A finding is known by its rule, file, function and line of code, not by its line number: it stays known when code above
it changes, and two equal ones in a function count as two.
"""

from __future__ import annotations

import collections
import hashlib
import json
import pathlib
from typing import Any, Counter, List

from .model import Finding, Report

VERSION = 1


class BaselineError(Exception):
    """The file is not there or is none of ours; the message says what to do."""


def fingerprints(report: Report) -> List[str]:
    """One for each finding, in order."""
    seen: Counter[str] = collections.Counter()
    result = []
    for finding in report.findings:
        base = _base(finding, report)
        seen[base] += 1
        result.append(hashlib.sha256(f"{base}\0{seen[base]}".encode()).hexdigest()[:20])
    return result


def _base(finding: Finding, report: Report) -> str:
    span = finding.span
    lines = report.frames.get(span.path, b"").split(b"\n") if span.line else []
    code = b"".join(lines[span.line - 1].split()).decode("utf-8", "replace") if lines else ""
    return "\0".join([finding.rule, span.path, finding.function, code])


def write(path: pathlib.Path, report: Report) -> None:
    entries = [
        {"rule": f.rule, "path": f.span.path, "function": f.function, "fingerprint": fingerprint}
        for f, fingerprint in zip(report.findings, fingerprints(report))
    ]
    path.write_text(json.dumps({"version": VERSION, "findings": entries}, indent=2) + "\n", encoding="utf-8")


def apply(path: pathlib.Path, report: Report) -> None:
    """Take out what the file knows, and count it."""
    known = {entry["fingerprint"] for entry in _read(path)["findings"]}
    prints = fingerprints(report)
    new = [finding for finding, fingerprint in zip(report.findings, prints) if fingerprint not in known]
    report.in_baseline = len(report.findings) - len(new)
    report.findings = new


def _read(path: pathlib.Path) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] == VERSION and all(isinstance(entry["fingerprint"], str) for entry in data["findings"]):
            return data
    except OSError as error:
        raise BaselineError(f"{path}: {error.strerror}; make it with --write-baseline {path}") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise BaselineError(f"{path}: not a baseline of this version; make it again with --write-baseline {path}")
