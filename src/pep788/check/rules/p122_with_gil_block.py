"""P122: a `with gil:` block in a nogil function."""

from __future__ import annotations

from typing import Iterator

from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P122",
    "with-gil-block",
    "a Cython `with gil:` block in a nogil function",
    Severity.WARNING,
    why="Cython calls PyGILState_Ensure there, and that has no way to fail once finalization has begun.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for file in project.cython:
        for block in file.blocks:
            if block.attaches:
                yield rule.on(
                    block.span,
                    f"{block.function} is a nogil function that takes the GIL here, which has no way to fail once "
                    "Python "
                    "finalizes.",
                    "Call PyThreadState_EnsureFromView first and test it; `with gil:` then nests.",
                    function=block.function,
                )
