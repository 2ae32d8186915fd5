"""P304: a shared object whose threads detach, and attach again."""

from __future__ import annotations

from typing import Iterator

from ..binary import RESTORES, late_return
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P304",
    "binary-return",
    "a binary whose threads detach, and attach again",
    Severity.NOTE,
    why="Nearly every module with Py_BEGIN_ALLOW_THREADS does. It matters for daemon threads, which finalization does "
    "not wait for, and for states that are kept elsewhere.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for binary in project.binaries:
        used = [name for name in RESTORES if name in binary.imports]
        if used and not binary.has_pep788:
            yield rule.on(
                binary.span,
                f"It attaches with a kept thread state ({', '.join(used)}). {late_return(binary)}",
                "Join threads before the program ends, or hold a guard while they run.",
                imports=used,
                python=binary.python,
            )
