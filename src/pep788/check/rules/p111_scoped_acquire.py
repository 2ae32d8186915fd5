"""P111: gil_scoped_acquire of pybind11 and nanobind."""

from __future__ import annotations

from typing import Iterator

from ..ctree import Kind
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, rule


@rule(
    "P111",
    "scoped-acquire",
    "gil_scoped_acquire of pybind11 or nanobind",
    Severity.WARNING,
    why="It attaches without a way to fail (nanobind 3 on 3.15+ has is_valid()): once finalization has begun the "
    "thread is ended inside its own frames (3.9-3.13.7), never returns (3.13.8+), or crashes.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        if embeds(function) or (function.owner == "gil_scoped_acquire"):
            continue
        for event in function.of(Kind.SCOPED_ACQUIRE):
            if event.macro is None:
                yield rule.at(
                    function,
                    event.node,
                    f"{event.name} has no way to fail once Python finalizes.",
                    "Use pep788::attached here(view), and return where it is false.",
                    spelled=event.name,
                    destructor=function.is_destructor,
                )
