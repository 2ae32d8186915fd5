"""P203: Ensure's result is not tested."""

from __future__ import annotations

from typing import Iterator

from .. import names
from ..ctree import Function, Kind
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule

HELP = "Test for NULL and leave without touching Python: NULL is how a late call is told apart."


@rule(
    "P203",
    "unchecked-token",
    "the result of PyThreadState_Ensure is not tested",
    Severity.ERROR,
    why="NULL means that the thread is not attached: any use of Python after it crashes, and so does Release(NULL).",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        for event in function.of(Kind.TOKEN_OPEN):
            parent = event.node.parent
            if event.macro is None and parent is not None and parent.type == "expression_statement":
                message = f"The result of {event.name} is dropped, so nothing tells whether it failed."
                yield rule.at(function, event.node, message, HELP)
    seen = set()
    for part, function in project.followed():
        for finding in _released_untested(rule, part, function):
            if (finding.span.path, finding.span.start) not in seen:
                seen.add((finding.span.path, finding.span.start))
                yield finding
    for file in project.cython:
        for call in file.calls:
            span = file.span_of_call(call)
            if call.name in names.TOKEN_OPEN and (call.dropped or call.unread) and (span.path, span.start) not in seen:
                message = f"The result of {call.name} is dropped, so nothing tells whether it failed."
                if call.unread:
                    message = f"{call.unread} of {call.name} is not tested for NULL."
                yield rule.on(span, message, HELP, function=call.function, variable=call.unread)


def _released_untested(rule: Rule, project: Project, function: Function) -> Iterator[Finding]:
    seen = set()
    opened = {event.start: event for event in function.of(Kind.TOKEN_OPEN)}
    for flow in project.flows(function):
        for closing, states in flow.visits.values():
            if closing.kind is not Kind.TOKEN_CLOSE:
                continue
            for resource in {r for state in states for r in state.held if r.key == closing.key and not r.checked}:
                event = opened.get(resource.site)
                if event is not None and event.macro is None and resource.site not in seen:
                    seen.add(resource.site)
                    message = f"{event.key} is given to {closing.name} without having been tested for NULL."
                    yield rule.at(function, event.node, message, HELP, variable=event.key)
