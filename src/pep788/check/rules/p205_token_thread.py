"""P205: a token released on another thread than the one that took it."""

from __future__ import annotations

import re
from typing import Iterator, Tuple

from .. import ctree
from ..ctree import Event, Function, Kind, Node
from ..model import Finding, Severity
from ..project import Project, calls
from ..registry import Rule, related, rule


@rule(
    "P205",
    "token-thread",
    "a token released on another thread than the one that took it",
    Severity.ERROR,
    why="A token belongs to the thread that took it: Release detaches the calling thread, and leaves the other one "
    "attached to a thread state that is in use, or gone. A guard may be closed on any thread.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    seen = set()
    for finding in _all(rule, project.with_cython):  # once for each place, however often its thread is started
        if finding.span not in seen:
            seen.add(finding.span)
            yield finding


def _all(rule: Rule, project: Project) -> Iterator[Finding]:
    by_node = {function.node.start_byte: function for function in project.functions if function.is_lambda}
    for file in project.files:
        here = [function for function in project.functions if function.file is file]
        for node, given in ctree.started(file):
            owner = next((f for f in here if not f.is_lambda and _is_inside(node, f.node)), None)
            if given.type == "lambda_expression":
                inner = by_node.get(given.start_byte)
                if owner is not None and inner is not None and inner.file is file:
                    yield from _captured(rule, owner, inner)
                continue
            name = ctree.routine_name(file, given)
            for routine in (f for f in here if f.name == name):
                if owner is not None:
                    yield from _handed_on(rule, owner, node, routine)
                yield from _kept(rule, project, routine)


def _is_inside(node: Node, outer: Node) -> bool:
    return bool(outer.start_byte <= node.start_byte and node.end_byte <= outer.end_byte)


def _captured(rule: Rule, owner: Function, inner: Function) -> Iterator[Finding]:
    for closing in inner.of(Kind.TOKEN_CLOSE):
        if closing.key in inner.locals or closing.key in inner.parameters:
            continue
        for opening in owner.of(Kind.TOKEN_OPEN):
            if opening.key and opening.key == closing.key:
                yield _finding(rule, inner, closing, owner, opening)


def _handed_on(rule: Rule, owner: Function, start: Node, routine: Function) -> Iterator[Finding]:
    """`pthread_create(&thread, NULL, run, token)`, and `run` releases its parameter."""
    given = {ctree.normal(owner.file, ctree.strip_casts(argument)) for argument in ctree.arguments(start)}
    for opening in owner.of(Kind.TOKEN_OPEN):
        for closing in routine.of(Kind.TOKEN_CLOSE) if opening.key in given else ():
            if closing.key in routine.parameters or _is_parameter(routine, closing.key):
                yield _finding(rule, routine, closing, owner, opening)


def _is_parameter(function: Function, key: str) -> bool:
    """A local variable that is made of a parameter."""
    made = re.search(rb"\b%b\s*=\s*(?:\([^()]*\)|[\w:]+<[^<>]*>\()?\s*(\w+)" % re.escape(key.encode()), function.text)
    return made is not None and made.group(1).decode() in function.parameters


def _kept(rule: Rule, project: Project, routine: Function) -> Iterator[Finding]:
    """Taken by a function that no thread of the file runs, and released by one that a thread runs."""
    for closing in routine.of(Kind.TOKEN_CLOSE):
        if closing.key not in routine.file.globals or any(e.key == closing.key for e in routine.of(Kind.TOKEN_OPEN)):
            continue
        for owner, opening in _openings(project, routine, closing.key):
            if owner.name not in calls(routine):
                yield _finding(rule, routine, closing, owner, opening)
                break


def _openings(project: Project, routine: Function, key: str) -> Iterator[Tuple[Function, Event]]:
    started = {ctree.routine_name(routine.file, given) for _, given in ctree.started(routine.file)}
    for function in project.functions:
        if function.file is routine.file and function.called_by_python and function.name not in started:
            for event in function.of(Kind.TOKEN_OPEN):
                if event.key == key:
                    yield function, event


def _finding(rule: Rule, function: Function, closing: Event, owner: Function, opening: Event) -> Finding:
    return rule.at(
        function,
        closing.node,
        f"{closing.key} is released on another thread than the one that took it in {owner.name}.",
        "Take and release a token on one thread; to hand the right to attach to another one, give it a guard.",
        related=[related(owner.file, opening, "taken here")],
    )
