"""P104: a macro that calls PyGILState_Ensure."""

from __future__ import annotations

from typing import Dict, Iterator, List, Tuple

from .. import names
from ..ctree import Event, Function, Kind, Macro
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, related, rule


@rule(
    "P104",
    "gilstate-macro",
    "a macro that calls PyGILState_Ensure",
    Severity.WARNING,
    why=names.LATE,
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    uses = _uses(project)
    for macro in project.macros.values():
        direct = any(name == names.ENSURE for _, name, _ in macro.calls) and names.ENSURE in macro.body
        direct = direct or macro.stands_for == names.ENSURE
        if direct:
            yield _finding(rule, macro, uses.get(macro.name, []))


def _uses(project: Project) -> Dict[str, List[Tuple[Function, Event]]]:
    """Where each macro is used, also through others."""
    found: Dict[str, List[Tuple[Function, Event]]] = {}
    for function in project.functions:
        for event in function.of(Kind.ENSURE):
            if event.macro is not None:
                for name in {event.macro.name, *event.macro.through}:
                    found.setdefault(name, []).append((function, event))
    return found


def _finding(rule: Rule, macro: Macro, uses: List[Tuple[Function, Event]]) -> Finding:
    times = "once" if len(uses) == 1 else f"{len(uses)} times"
    used = f"is used {times} in what was checked" if uses else "is not used in what was checked"
    places = [function.file.span(event.node) for function, event in uses]
    return rule.on(
        macro.file.span(macro.node.child_by_field_name("name")),
        f"{macro.name} calls PyGILState_Ensure and {used}.",
        "Give the macro an argument for what to do where PyThreadState_EnsureFromView gives NULL: it differs per "
        "caller.",
        related=[related(function.file, event, "used here") for function, event in uses[:3]],
        uses=[{"path": p.path, "line": p.line, "start": p.start} for p in places],
        macro=macro.name,
    )
