"""P102: a path leaves the function without PyGILState_Release."""

from __future__ import annotations

from typing import Iterator, Tuple

from ..ctree import Event, Function, Kind
from ..fixes import before_exit
from ..flow import Exit
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, related, rule


@rule(
    "P102",
    "missing-release",
    "a path leaves the function without PyGILState_Release",
    Severity.ERROR,
    why="The thread stays attached: with a GIL all other threads then wait for ever, and its thread state is never "
    "freed.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    seen = set()
    for part, function in project.followed():
        for event, exit in leaks(part, function):
            finding = _finding(rule, function, event, exit)
            place = (finding.span, finding.data["variable"])  # once, whatever is compiled
            if place not in seen:
                seen.add(place)
                yield finding


def leaks(project: Project, function: Function) -> Iterator[Tuple[Event, Exit]]:
    """Each exit once with each state that is still held there."""
    acquired = {event.start: event for event in function.of(Kind.ENSURE)}
    seen = set()
    if not acquired:
        return
    for flow in project.flows(function):
        for exit in flow.exits:
            for site in {r.site for state in exit.states for r in state.held if r.what == "state"}:
                event = acquired.get(site)
                if event is not None and _is_local(function, event) and (site, exit.node.start_byte) not in seen:
                    seen.add((site, exit.node.start_byte))
                    yield event, exit


def _is_local(function: Function, event: Event) -> bool:
    """Nobody else can release what only this function knows."""
    return function.locals.get(event.key, "").strip() == "PyGILState_STATE" or (
        event.macro is not None and event.key.isidentifier() and event.key not in function.parameters
    )


def _finding(rule: Rule, function: Function, event: Event, exit: Exit) -> Finding:
    throws = "raises" if function.file.cython else "throws"
    how = {"return_statement": "returns", "throw_statement": throws, "expression_statement": "returns"}
    end = exit.node.type not in how
    node = function.body.children[-1] if end else exit.node
    what = f"{function.name or 'The function'} {'ends' if end else how[exit.node.type]} here"
    edits, fix = before_exit(function, exit, f"PyGILState_Release({event.key});")
    return rule.at(
        function,
        node,
        f"{what} without PyGILState_Release.",
        "Release on this path, too.",
        edits=edits if event.macro is None else (),
        fix=fix,
        related=[related(function.file, event, "PyGILState_Ensure is called here")],
        variable=event.key,
    )
