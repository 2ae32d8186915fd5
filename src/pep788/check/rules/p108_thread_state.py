"""P108: a thread state made and attached by hand."""

from __future__ import annotations

from typing import Iterator

from .. import names
from ..ctree import Kind
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, rule

MESSAGE = "A thread state is made by hand, and nothing keeps its interpreter alive."
HELP = "PyThreadState_Ensure(guard) makes, attaches and deletes it, and the guard holds the interpreter."


@rule(
    "P108",
    "thread-state",
    "a thread state made by hand",
    Severity.WARNING,
    why="Nothing keeps the interpreter alive: attaching the state once finalization has begun ends, stops or crashes "
    "the thread.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        for event in function.of(Kind.NEW_STATE):
            if event.macro is None and not embeds(function):
                yield rule.at(
                    function,
                    event.node,
                    MESSAGE,
                    HELP,
                    variable=event.key,
                )
    for macro in project.macros.values():
        if "PyThreadState_New" in macro.body:
            yield rule.on(
                macro.file.span(macro.node.child_by_field_name("name")),
                f"{macro.name} makes a thread state by hand, and nothing keeps its interpreter alive.",
                HELP,
                macro=macro.name,
            )
    for file in project.cython:
        for call in file.calls:
            if call.name in names.NEW_STATE:
                yield rule.on(file.span_of_call(call), MESSAGE, HELP, function=call.function)
