"""P121: a Cython function declared `with gil`."""

from __future__ import annotations

from typing import Iterator

from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P121",
    "with-gil-function",
    "a Cython function declared `with gil`",
    Severity.WARNING,
    why="Cython calls PyGILState_Ensure before its first line, and that has no way to fail once finalization has "
    "begun.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for file in project.cython:
        in_python = file.path.endswith(".pxd") and file.path[:-4] + ".py" in project.paths  # types of a .py file
        for function in (*file.functions, *(file.declared if in_python else ())):
            extra = " An exception it leaves set is lost if C code calls it." if function.raises else ""
            yield rule.on(
                function.span,
                f"{function.function} is declared `with gil`, which has no way to fail once Python finalizes.{extra}",
                "Make it nogil, call PyThreadState_EnsureFromView first and test it; `with gil:` then nests.",
                function=function.function,
                returns=function.returns,
                raises=function.raises,
            )
