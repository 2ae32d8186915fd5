"""P302: a shared object that attaches, but starts no threads itself."""

from __future__ import annotations

from typing import Iterator

from ..binary import attaching, late, threads
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P302",
    "binary-attach",
    "a binary that attaches, and leaves it to others to start threads",
    Severity.NOTE,
    why="Nearly every Cython module imports PyGILState_Ensure. It matters where a library calls back on threads of its "
    "own.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for binary in project.binaries:
        attach = attaching(binary)
        if attach and not threads(binary) and not binary.has_pep788:
            yield rule.on(
                binary.span,
                f"It attaches ({', '.join(attach)}), and starts no thread itself. {late(binary, attach)}",
                "Find out whether a library that it uses calls back on threads of its own.",
                imports=attach,
                python=binary.python,
            )
