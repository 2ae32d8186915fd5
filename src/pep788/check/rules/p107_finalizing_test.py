"""P107: a test for finalization, then an attach: the answer may be old by then."""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterator, List, Optional, Set, Tuple

from .. import ctree, names
from ..ctree import Event, Function, Kind, Macro, Node
from ..cython_tree import Call, CythonFile
from ..model import Finding, Related, Severity
from ..project import Project, embeds
from ..registry import Rule, rule

HELP = "Attach with PyThreadState_EnsureFromView: its NULL is the same answer, and one that cannot be out of date."

CONDITION = ("call_expression", "parenthesized_expression", "unary_expression", "binary_expression")


@rule(
    "P107",
    "finalizing-test",
    "a test for finalization before an attach",
    Severity.WARNING,
    why="Finalization may begin between the test and the attach. Only an attach that can fail is a test that holds.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    asking, attaching = _Helpers(project), _Attachers(project)
    for function in project.functions:
        if embeds(function):
            continue
        seen: Set[int] = set()
        for test in (*_own(function), *_through(function, asking)):
            attach = attaching.after(function, test)
            condition = _condition(test.node)
            if attach is not None and condition not in seen:  # one finding for `A() && !B()`
                seen.add(condition)
                yield _finding(rule, function, test, attach)
    yield from _in_macros(rule, project, attaching)
    with_gil = {function.function for file in project.cython for function in file.functions}
    for file in project.cython:
        for call in file.calls:
            later = _attach_in_cython(file, call, with_gil) if call.name in names.FINALIZING_TESTS else ""
            if later:
                message = f"{call.name} is tested before {later}: finalization may begin in between."
                yield rule.on(file.span_of_call(call), message, HELP, function=call.function, test=call.name)


def _attach_in_cython(file: CythonFile, test: Call, with_gil: Set[str]) -> str:
    """By itself, or by a later call of a `with gil` function of the tree."""
    if test.before_attach or test.attached:
        return test.before_attach
    later = (c for c in file.calls if c.function == test.function and c.place > test.place and c.name in with_gil)
    return next((call.name for call in later), "")


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


class _Helpers:
    """Functions that do nothing but ask, and give the answer to their callers; macros that ask."""

    def __init__(self, project: Project) -> None:
        self.functions: Dict[str, Tuple[Function, Event]] = {}
        for name, functions in project.by_name.items():
            asking = [f for f in functions if f.of(Kind.TEST) and _only_answers(f)]
            if asking and len(asking) == len(functions):
                self.functions[name] = (asking[0], asking[0].of(Kind.TEST)[0])
        self.macros: Dict[str, Tuple[Macro, str]] = {}
        for macro, words in _other_macros(project):
            tests = sorted(set(words) & names.FINALIZING_TESTS)
            if tests:
                self.macros[macro.name] = (macro, tests[0])


def _other_macros(project: Project) -> Iterator[Tuple[Macro, List[str]]]:
    for defined in project.others.values():
        for macros in defined.values():
            yield macros[-1], re.findall(r"\w+", ctree.unquoted(macros[-1].body))


@dataclasses.dataclass(frozen=True)
class _Attach:
    """Where a function attaches without a way to fail, and by what."""

    node: Node
    name: str


class _Attachers:
    """Calls that attach: of the API, or of functions and macros of the tree that do."""

    def __init__(self, project: Project) -> None:
        self.functions = {
            name
            for name, functions in project.by_name.items()
            if name and all(any(self._attaches(f, e) for e in f.events) and not embeds(f) for f in functions)
        }
        self.macros = {m.name for m, words in _other_macros(project) if not self.functions.isdisjoint(words)}

    @staticmethod
    def _attaches(function: Function, event: Event) -> bool:
        """The end of Py_BEGIN_ALLOW_THREADS ... is no attach that somebody chose to make after a test."""
        if event.kind is Kind.REATTACH:
            return not any(e.start < event.start for e in function.of(Kind.DETACH))
        return event.kind in (Kind.ENSURE, Kind.SCOPED_ACQUIRE)

    def after(self, function: Function, test: _Test) -> Optional[_Attach]:
        direct = (e for e in function.events if e.start > test.start and self._attaches(function, e))
        event = next(direct, None)
        if event is not None:
            return _Attach(event.node, event.name)
        if function.called_by_python:  # it is attached, and what it calls nests
            return None
        for node in ctree.walk(function.body):
            if node.type == "call_expression" and node.start_byte > test.start:
                callee = function.file.text(node.child_by_field_name("function"))
                if callee in self.functions or callee in self.macros:
                    return _Attach(node, callee)
        return None


def _in_macros(rule: Rule, project: Project, attaching: _Attachers) -> Iterator[Finding]:
    """Macros that ask, and then attach by a function of the tree."""
    for macro, words in _other_macros(project):
        test = next((at for at, word in enumerate(words) if word in names.FINALIZING_TESTS), None)
        attach = next((w for w in words[test + 1 :] if w in attaching.functions), None) if test is not None else None
        if test is not None and attach is not None:
            yield rule.on(
                macro.file.span(macro.node.child_by_field_name("name")),
                f"{macro.name} tests {words[test]} before {attach}: finalization may begin in between.",
                HELP,
                test=words[test],
                macro=macro.name,
            )


def _only_answers(function: Function) -> bool:
    attaches = any(event.kind in ctree.ATTACHES or event.kind is Kind.REATTACH for event in function.events)
    answers = function.returns_value and "*" not in function.return_type
    return answers and not attaches and not embeds(function) and not function.is_lambda


def _through(function: Function, asking: _Helpers) -> Iterator[_Test]:
    if not asking.functions and not asking.macros:
        return
    for node in ctree.walk(function.body):
        if node.type != "identifier":
            continue
        name = function.file.text(node)
        if name not in asking.functions and name not in asking.macros:
            continue
        while node.parent.type == "qualified_identifier":
            node = node.parent
        called = node.parent.type == "call_expression"
        if not _decides(node):
            continue
        if name in asking.functions and called:
            helper, event = asking.functions[name]
            yield _Test(node, name, Related(helper.file.span(event.node), f"{name} asks {event.name}"))
        elif name in asking.macros and called == (asking.macros[name][0].parameters is not None):
            macro, test = asking.macros[name]
            head = macro.node.child_by_field_name("name")
            yield _Test(node, name, Related(macro.file.span(head), f"{name} asks {test}"))


def _condition(node: Node) -> int:
    """The whole condition that the test is a part of, as its first byte."""
    while node.parent is not None and node.parent.type in (*CONDITION, "qualified_identifier", "condition_clause"):
        node = node.parent
    return int(node.start_byte)


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


def _finding(rule: Rule, function: Function, test: _Test, attach: _Attach) -> Finding:
    extra = ""
    if test.name == "Py_IsInitialized" or (test.through and "Py_IsInitialized" in test.through.message):
        extra = " On 3.14+ Py_IsInitialized is still true while Python finalizes."
    asked = [test.through] if test.through else []
    return rule.at(
        function,
        test.node,
        f"{test.name} is tested before {attach.name}: finalization may begin in between.{extra}",
        HELP,
        related=[*asked, Related(function.file.span(attach.node), "attached here")],
        test=test.name,
    )
