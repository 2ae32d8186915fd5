"""P202: tokens released in another order than the reverse of the one they were taken in."""

from __future__ import annotations

from typing import Iterator

from ..ctree import Function, Kind
from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P202",
    "token-order",
    "tokens released out of order",
    Severity.ERROR,
    why="Release undoes the latest Ensure of the thread: another token attaches it to the wrong state, or deletes a "
    "state "
    "that is in use. Native 3.15 does not notice.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    seen = set()
    for part, function in project.followed():
        for finding in _in_function(rule, part, function) if len(function.of(Kind.TOKEN_OPEN)) > 1 else ():
            if finding not in seen:
                seen.add(finding)
                yield finding


def _in_function(rule: Rule, project: Project, function: Function) -> Iterator[Finding]:
    seen = set()
    for flow in project.flows(function):
        for event, states in flow.visits.values():
            if event.kind is not Kind.TOKEN_CLOSE or event.start in seen:
                continue
            tokens = [[r.key for r in state.held if r.what == "token"] for state in states]
            wrong = [keys[-1] for keys in tokens if event.key in keys[:-1] and keys[-1] != event.key]
            if wrong:
                seen.add(event.start)
                yield rule.at(
                    function,
                    event.node,
                    f"{event.key} is released while {wrong[0]}, which was taken after it, is not.",
                    f"Release {wrong[0]} first.",
                )
