"""P201: a guard or token that some path leaves open."""

from __future__ import annotations

from typing import Dict, Iterator

from ..ctree import Event, Function, Kind
from ..fixes import before_exit
from ..flow import Exit
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, related, rule

CLOSED_BY = {"guard": "PyInterpreterGuard_Close", "token": "PyThreadState_Release"}
TYPES = {"guard": "PyInterpreterGuard*", "token": "PyThreadStateToken*"}


@rule(
    "P201",
    "left-open",
    "a guard or token that some path leaves open",
    Severity.ERROR,
    why="A guard that is never closed holds the interpreter for ever: the process does not exit. So does the guard "
    "of a "
    "token that is never released.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    seen = set()
    for part, function in project.followed():
        opened = {event.start: event for event in function.of(Kind.GUARD_OPEN, Kind.TOKEN_OPEN)}
        for finding in _leaks(rule, part, function, opened) if opened else ():
            place = (finding.span, finding.data["variable"])  # once, whatever is compiled
            if place not in seen:
                seen.add(place)
                yield finding


def _leaks(rule: Rule, project: Project, function: Function, opened: Dict[int, Event]) -> Iterator[Finding]:
    seen = set()
    for flow in project.flows(function):
        for exit in flow.exits:
            for resource in {r._replace(checked=True) for state in exit.states for r in state.held}:
                event = opened.get(resource.site)
                local = function.locals.get(resource.key, "").replace("struct ", "") == TYPES.get(resource.what)
                if event is not None and local and (resource.site, exit.node.start_byte) not in seen:
                    seen.add((resource.site, exit.node.start_byte))
                    yield _finding(rule, function, event, exit, resource.what)


def _finding(rule: Rule, function: Function, event: Event, exit: Exit, what: str) -> Finding:
    closing = "Pep788_ReleaseKept" if event.name == "Pep788_EnsureKept" else CLOSED_BY[what]
    end = exit.node == function.body
    edits, fix = before_exit(function, exit, f"{closing}({event.key});")
    return rule.at(
        function,
        function.body.children[-1] if end else exit.node,
        f"{function.name or 'The function'} {'ends' if end else 'leaves'} here, and {event.key} of {event.name} is "
        "still open.",
        f"Call {closing}({event.key}) on this path, too.",
        related=[related(function.file, event, "opened here")],
        edits=edits if event.macro is None else (),
        fix=fix,
        variable=event.key,
        what=what,
    )
