"""P301: a shared object that starts threads and attaches them."""

from __future__ import annotations

from typing import Iterator

from ..binary import attaching, late, threads
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P301",
    "binary-threads",
    "a binary that starts native threads and attaches",
    Severity.WARNING,
    why="What a binary imports says what it can do, not what it does: look at its sources, or ask its authors.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for binary in project.binaries:
        attach, start = attaching(binary), threads(binary)
        if attach and start and not binary.has_pep788:
            yield rule.on(
                binary.span,
                f"It starts threads ({', '.join(start)}) and attaches ({', '.join(attach)}). {late(binary, attach)}",
                "Check its sources, or run its programs under a test that exits while its threads call back.",
                imports=[*start, *attach],
                python=binary.python,
            )
