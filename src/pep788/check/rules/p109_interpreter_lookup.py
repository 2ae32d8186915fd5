"""P109: an interpreter looked up by pointer."""

from __future__ import annotations

from typing import Iterator

from ..ctree import Kind, Node
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, rule

WHY = {
    "PyInterpreterState_Main": "is NULL after finalization, and what it gave before may be gone by the time it is used",
    "PyInterpreterState_Head": "reads CPython's list of interpreters without its lock, and gives the newest one, not "
    "main",
    "PyInterpreterState_Next": "reads CPython's list of interpreters without its lock",
}
HELP = "Keep a PyInterpreterView * of the interpreter that is meant, made where the callback is registered."


def _only_tested(call: Node) -> bool:
    """`!PyInterpreterState_Head()`, `PyInterpreterState_Main() == mine`: the pointer is compared, not used."""
    parent = call.parent
    while parent is not None and parent.type == "parenthesized_expression":
        parent = parent.parent
    if parent is None or parent.type not in ("binary_expression", "unary_expression"):
        return parent is not None and parent.type in ("if_statement", "condition_clause", "while_statement")
    return any(child.type in ("==", "!=", "!", "&&", "||") for child in parent.children)


@rule(
    "P109",
    "interpreter-lookup",
    "an interpreter looked up by pointer",
    Severity.WARNING,
    why="A pointer to an interpreter may be stale by the time it is used; a PyInterpreterView * never is.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        for event in function.of(Kind.LOOKUP):
            if not embeds(function) and not _only_tested(event.node):
                yield rule.at(
                    function,
                    event.node,
                    f"{event.name} {WHY[event.name]}.",
                    HELP,
                )
    for file in project.cython:
        for call in file.calls:
            if call.name in WHY:
                message = f"{call.name} {WHY[call.name]}."
                yield rule.on(file.span_of_call(call), message, HELP, function=call.function)
