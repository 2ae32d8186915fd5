"""P112: attaching in a destructor or a noexcept function."""

from __future__ import annotations

from typing import Iterator

from ..ctree import Kind
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P112",
    "attach-noexcept",
    "attaching in a destructor or a noexcept function",
    Severity.ERROR,
    why="Up to 3.13.7 a late thread is ended by unwinding its stack, and unwinding must not pass this frame: "
    "std::terminate aborts the process. On 3.14 it may crash, later it never returns.",
    replaces=("P101", "P103", "P111"),
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        if not function.is_noexcept or function.file.language == "c":
            continue
        what = "a destructor" if function.is_destructor else "a noexcept function"
        for event in function.of(Kind.ENSURE, Kind.SCOPED_ACQUIRE):
            yield rule.at(
                function,
                event.node,
                f"{event.name} in {what}: a late thread aborts the process.",
                "Use pep788::object for a reference, or pep788::attached and leave the Python part out where it is "
                "false.",
                destructor=function.is_destructor,
            )
