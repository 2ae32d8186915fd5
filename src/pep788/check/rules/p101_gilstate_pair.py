"""P101: PyGILState_Ensure and PyGILState_Release in one function."""

from __future__ import annotations

from typing import Iterator, List

from .. import names
from ..ctree import Event, Function, Kind, walk
from ..model import Confidence, Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, related, rule

MESSAGE = "PyGILState_Ensure has no way to fail once Python finalizes."


@rule(
    "P101",
    "gilstate-pair",
    "PyGILState_Ensure and PyGILState_Release in one function",
    Severity.WARNING,
    why=names.LATE,
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        if embeds(function):
            continue
        for event in function.of(Kind.ENSURE):
            releases = project.pairs(function, event)
            if event.macro is None and (releases or function.has_error):
                yield _finding(rule, project, function, event, releases)
    for file in project.cython:
        for call in file.calls:
            if call.name == names.ENSURE:
                yield rule.on(file.span_of_call(call), MESSAGE, _help(False), function=call.function)


def _finding(rule: Rule, project: Project, function: Function, event: Event, releases: List[Event]) -> Finding:
    understood = bool(project.flows(function))
    return rule.at(
        function,
        event.node,
        MESSAGE,
        _help(function.returns_value),
        confidence=Confidence.HIGH if understood else Confidence.MEDIUM,
        related=[related(function.file, release, "released here") for release in releases],
        pattern=_pattern(function, event, releases),
        variable=event.key,
        returns=function.return_type or "void",
        destructor=function.is_destructor,
    )


JUMPS = ("return_statement", "goto_statement", "throw_statement", "co_return_statement")


def _pattern(function: Function, event: Event, releases: List[Event]) -> str:
    """ "jumps" is a pair with a `return`, `goto` or `throw` in between."""
    if function.has_error or not releases:
        return "not understood"
    last = max(release.start for release in releases)
    between = (node for node in walk(function.body) if event.start < node.start_byte < last)
    return "jumps" if any(node.type in JUMPS for node in between) else "pair"


def _help(returns_value: bool) -> str:
    leave = "return its failure value" if returns_value else "return"
    return f"Use PyThreadState_EnsureFromView(view), {leave} where it gives NULL, and PyThreadState_Release(token)."
