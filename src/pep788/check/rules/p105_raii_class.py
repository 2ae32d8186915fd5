"""P105: a C++ class whose constructor attaches and whose destructor releases."""

from __future__ import annotations

from typing import Iterator

from .. import names
from ..ctree import Kind
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, related, rule


@rule(
    "P105",
    "raii-class",
    "a class whose constructor calls PyGILState_Ensure",
    Severity.WARNING,
    why=names.LATE,
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        if not function.is_constructor:
            continue
        for event in function.of(Kind.ENSURE):
            destructors = [f for f in project.by_name.get("~" + function.owner, ()) if f.of(Kind.RELEASE)]
            if not project.pairs(function, event):
                yield rule.at(
                    function,
                    event.node,
                    f"The constructor of {function.owner} calls PyGILState_Ensure, so no user can be told of failure.",
                    "Use pep788::attached, or keep a token, add explicit operator bool, and let every user test it.",
                    related=[related(f.file, f.of(Kind.RELEASE)[0], "released here") for f in destructors],
                    owner=function.owner,
                    variable=event.key,
                )
