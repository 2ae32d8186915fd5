"""P107: a test for finalization, then an attach: the answer may be old by then."""

from __future__ import annotations

from typing import Iterator, Optional

from .. import ctree
from ..ctree import Event, Function, Kind
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, related, rule

HELP = "Attach with PyThreadState_EnsureFromView: its NULL is the same answer, and one that cannot be out of date."


@rule(
    "P107",
    "finalizing-test",
    "a test for finalization before an attach",
    Severity.WARNING,
    why="Finalization may begin between the test and the attach. Only an attach that can fail is a test that holds.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        if embeds(function):
            continue
        for event in function.of(Kind.TEST):
            attach = _next_attach(function, event)
            if attach is not None:
                yield _finding(rule, function, event, attach)


def _next_attach(function: Function, test: Event) -> Optional[Event]:
    later = (e for e in function.events if e.start > test.start and e.kind in ctree.ATTACHES | {Kind.REATTACH})
    return next((e for e in later if not _in_detached_block(function, e)), None)


def _in_detached_block(function: Function, event: Event) -> bool:
    """The end of Py_BEGIN_ALLOW_THREADS ... is no attach that somebody chose to make after a test."""
    return event.kind is Kind.REATTACH and any(e.start < event.start for e in function.of(Kind.DETACH))


def _finding(rule: Rule, function: Function, event: Event, attach: Event) -> Finding:
    extra = ""
    if event.name == "Py_IsInitialized":
        extra = " On 3.14+ it is still true while Python finalizes."
    return rule.at(
        function,
        event.node,
        f"{event.name} is tested before {attach.name}: finalization may begin in between.{extra}",
        HELP,
        related=[related(function.file, attach, "attached here")],
        test=event.name,
    )
