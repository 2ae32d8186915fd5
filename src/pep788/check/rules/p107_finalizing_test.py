"""P107: a test for finalization, then an attach: the answer may be old by then."""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterator, Optional, Tuple

from .. import ctree, names
from ..ctree import Event, Function, Kind, Macro, Node
from ..model import Finding, Related, Severity
from ..project import Project, embeds
from ..registry import Rule, related, rule

HELP = "Attach with PyThreadState_EnsureFromView: its NULL is the same answer, and one that cannot be out of date."

REATTACHES = frozenset({Kind.REATTACH})
CONDITION = ("call_expression", "parenthesized_expression", "unary_expression", "binary_expression")


@rule(
    "P107",
    "finalizing-test",
    "a test for finalization before an attach",
    Severity.WARNING,
    why="Finalization may begin between the test and the attach. Only an attach that can fail is a test that holds.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    helpers = _helpers(project)
    macros = _macros(project)
    for function in project.functions:
        if embeds(function):
            continue
        for test in (*_own(function), *_through(function, helpers, macros)):
            attach = _next_attach(function, test)
            if attach is not None:
                yield _finding(rule, function, test, attach)
    for file in project.cython:
        for call in file.calls:
            if call.name in names.FINALIZING_TESTS and call.before_attach:
                message = f"{call.name} is tested before {call.before_attach}: finalization may begin in between."
                yield rule.on(file.span_of_call(call), message, HELP, function=call.function, test=call.name)


@dataclasses.dataclass(frozen=True)
class _Test:
    """A place where a function asks; `through` is the helper or macro that does it for it."""

    node: Node
    name: str
    through: Optional[Related] = None

    @property
    def start(self) -> int:
        return int(self.node.start_byte)


def _own(function: Function) -> Iterator[_Test]:
    for event in function.of(Kind.TEST):
        yield _Test(event.node, event.name)


def _helpers(project: Project) -> Dict[str, Tuple[Function, Event]]:
    """Functions that do nothing but ask, and give the answer to their callers."""
    found: Dict[str, Tuple[Function, Event]] = {}
    for name, functions in project.by_name.items():
        asking = [f for f in functions if f.of(Kind.TEST) and _only_answers(f)]
        if asking and len(asking) == len(functions):
            found[name] = (asking[0], asking[0].of(Kind.TEST)[0])
    return found


def _only_answers(function: Function) -> bool:
    attaches = any(event.kind in ctree.ATTACHES or event.kind in REATTACHES for event in function.events)
    answers = function.returns_value and "*" not in function.return_type
    return answers and not attaches and not embeds(function) and not function.is_lambda


def _macros(project: Project) -> Dict[str, Tuple[Macro, str]]:
    found: Dict[str, Tuple[Macro, str]] = {}
    for defined in project.others.values():
        for name, macros in defined.items():
            words = set(re.findall(r"\w+", ctree.unquoted(macros[-1].body)))
            tests = sorted(words & names.FINALIZING_TESTS)
            if tests:
                found[name] = (macros[-1], tests[0])
    return found


def _through(
    function: Function, helpers: Dict[str, Tuple[Function, Event]], macros: Dict[str, Tuple[Macro, str]]
) -> Iterator[_Test]:
    if not any(event.kind in ctree.ATTACHES or event.kind in REATTACHES for event in function.events):
        return
    for node in ctree.walk(function.body):
        if node.type != "identifier" or not _decides(node):
            continue
        name = function.file.text(node)
        called = node.parent.type == "call_expression"
        if name in helpers and called:
            helper, event = helpers[name]
            yield _Test(node, name, Related(helper.file.span(event.node), f"{name} asks {event.name}"))
        elif name in macros and called == (macros[name][0].parameters is not None):
            macro, test = macros[name]
            head = macro.node.child_by_field_name("name")
            yield _Test(node, name, Related(macro.file.span(head), f"{name} asks {test}"))


def _decides(node: Node) -> bool:
    """It is called, or it is a macro without arguments, in the condition of a statement or of `?:`."""
    parent = node.parent
    while parent is not None and parent.type in CONDITION:
        node, parent = parent, parent.parent
    return (
        parent is not None
        and parent.type in ("if_statement", "while_statement", "conditional_expression", "condition_clause")
        and (parent.type == "condition_clause" or parent.child_by_field_name("condition") == node)
    )


def _next_attach(function: Function, test: _Test) -> Optional[Event]:
    later = (e for e in function.events if e.start > test.start and e.kind in ctree.ATTACHES | {Kind.REATTACH})
    return next((e for e in later if not _in_detached_block(function, e)), None)


def _in_detached_block(function: Function, event: Event) -> bool:
    """The end of Py_BEGIN_ALLOW_THREADS ... is no attach that somebody chose to make after a test."""
    return event.kind is Kind.REATTACH and any(e.start < event.start for e in function.of(Kind.DETACH))


def _finding(rule: Rule, function: Function, test: _Test, attach: Event) -> Finding:
    extra = ""
    if test.name == "Py_IsInitialized" or (test.through and "Py_IsInitialized" in test.through.message):
        extra = " On 3.14+ Py_IsInitialized is still true while Python finalizes."
    asked = [test.through] if test.through else []
    return rule.at(
        function,
        test.node,
        f"{test.name} is tested before {attach.name}: finalization may begin in between.{extra}",
        HELP,
        related=[*asked, related(function.file, attach, "attached here")],
        test=test.name,
    )
