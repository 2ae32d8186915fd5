"""P110: waiting for a native thread while attached."""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterator, List, Optional, Set, Tuple

from .. import ctree, names
from ..ctree import CFile, Event, Function, Kind, Node
from ..cython_tree import CythonFile
from ..model import Confidence, Edit, Finding, Fix, Related, Severity
from ..project import Project, type_of
from ..registry import Rule, related, rule

HELP = "Detach around the wait: Py_BEGIN_ALLOW_THREADS ... Py_END_ALLOW_THREADS. No kind of Ensure helps here."
CYTHON_HELP = "Call it inside `with nogil:`. No kind of Ensure helps here."
MOST_CALLS = 3
"""Calls between the function that is attached and the one that waits."""


@rule(
    "P110",
    "wait-attached",
    "waiting for a native thread while attached",
    Severity.ERROR,
    why="The thread waits to attach until this one detaches, and this one waits for the thread: neither goes on, "
    "with or without finalization.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    seen = set()
    for finding in (*_by_paths(rule, project.with_cython), *_by_name(rule, project)):
        place = (finding.span.path, finding.span.start)
        if place not in seen:
            seen.add(place)
            yield finding


def _by_paths(rule: Rule, project: Project) -> Iterator[Finding]:
    waits = _waits(project)
    helpers: Dict[str, List[_Wait]] = {}
    for wait in waits:
        attached = _attached(project, wait)
        if attached is True:
            yield _finding(rule, wait, wait.event.node)
        elif attached is None:
            helpers.setdefault(wait.function.name, []).append(wait)
    yield from _through_helpers(rule, project, helpers)


def _by_name(rule: Rule, project: Project) -> Iterator[Finding]:
    """Calls of Cython code, by what is called alone."""
    callers = [file for file in project.cython if file.functions]
    joins = _joins_of_callback_threads(project) if callers else {}
    for file in callers:
        yield from _in_cython(rule, file, joins)


@dataclasses.dataclass(frozen=True)
class _Wait:
    """A call that waits for a thread, or for a callback on one, that attaches."""

    function: Function
    event: Event
    what: str
    attaching: str
    confidence: Confidence


def _waits(project: Project) -> List[_Wait]:
    found = []
    for function in project.functions:
        for event in function.of(Kind.JOIN):
            if event.name in names.LIBRARY_WAITS:
                called = _callback(project, function.file)
                if called:
                    what = f"{event.name} waits for {names.LIBRARY_WAITS[event.name]}"
                    found.append(_Wait(function, event, what, called, Confidence.MEDIUM))
            elif _joins_thread(function, event):
                needs = _thread_attaches(project, function)
                if needs is not None:
                    found.append(_Wait(function, event, f"{event.name} waits for a thread", *needs))
    return found


def _joins_thread(function: Function, event: Event) -> bool:
    classes = ctree.WAITING_METHODS.get(event.name)
    if classes is None:
        return True
    key = event.key.split("[")[0].replace("this->", "")
    declared = type_of(function, _range_of(function, event, key) or key) or ""
    if declared == "auto":
        made = re.search(rb"\b%b\s*=\s*(std::[a-z]+)" % re.escape(key.encode()), function.text)
        declared = made.group(1).decode().replace("std::async", "std::future") if made else ""
    return any(name in declared for name in classes)


def _range_of(function: Function, event: Event, key: str) -> str:
    """`threads` of `for (auto &thread : threads) thread.join();`"""
    node = event.node.parent
    while node is not None and node != function.body:
        if node.type == "for_range_loop":
            variable, right = node.child_by_field_name("declarator"), node.child_by_field_name("right")
            if function.file.text(variable).lstrip("&* ") == key:
                return function.file.text(right).replace("this->", "")
        node = node.parent
    return ""


def _attached(project: Project, wait: _Wait) -> Optional[bool]:
    """True: on every path, whatever is compiled in; None: as its caller is; False: neither."""
    flows = project.flows(wait.function)
    seen = [flow.visits.get((wait.event.start, wait.event.kind.value)) for flow in flows]
    return _one({state.attached for visit in seen if visit is not None for state in visit[1]})


def _one(values: Set[Optional[bool]]) -> Optional[bool]:
    return next(iter(values)) if len(values) == 1 else False


def _thread_attaches(project: Project, function: Function) -> Optional[Tuple[str, Confidence]]:
    """The function that threads made in this file run, if it attaches."""
    started = [name for name in _started(function) if name in project.defined]
    for name in started:
        if project.attaches(name, function.file):
            return name, Confidence.HIGH
    if started:
        return None
    here = (f for f in project.functions if f.file is function.file and f is not function)
    attaching = next((f.name for f in here if any(e.kind in ctree.ATTACHES for e in f.events)), None)
    return (attaching, Confidence.MEDIUM) if attaching else None


def _started(function: Function) -> List[str]:
    return [ctree.routine_name(function.file, given) for _, given in ctree.started(function.file)]


def _callback(project: Project, file: CFile) -> str:
    """A function that attaches, and that this file hands to somebody by its name."""
    for node in ctree.walk(file.root):
        if node.type == "identifier" and node.parent.type in ("argument_list", "pointer_expression", "cast_expression"):
            name = file.text(node)
            if name in project.by_name and project.attaches(name, file):
                return name
    return ""


# --- functions that wait, and leave it to their callers to detach -----------------------------------------------


def _through_helpers(rule: Rule, project: Project, helpers: Dict[str, List[_Wait]]) -> Iterator[Finding]:
    for _ in range(MOST_CALLS):
        more: Dict[str, List[_Wait]] = {}
        for function, name, wait in _callers(project, helpers):
            for node, attached in _calls(project, function, name):
                if attached is True:
                    yield _finding(rule, dataclasses.replace(wait, function=function), node, wait.function)
                elif attached is None and function.name not in helpers:
                    more.setdefault(function.name, []).append(wait)
        if not more:
            return
        helpers = more


def _callers(project: Project, helpers: Dict[str, List[_Wait]]) -> Iterator[Tuple[Function, str, _Wait]]:
    pattern = re.compile(rb"\b(" + b"|".join(re.escape(name.encode()) for name in helpers if name) + rb")\s*\(")
    for file in project.files if any(helpers) else ():
        for function in file.functions:
            for name in sorted({found.group(1).decode() for found in pattern.finditer(function.text)}):
                wait = _called_one(project, name, file, helpers[name])
                if wait is not None and function.name != name:
                    yield function, name, wait


def _called_one(project: Project, name: str, file: CFile, waits: List[_Wait]) -> Optional[_Wait]:
    """The one in this file, or all functions of this name wait."""
    here = [wait for wait in waits if wait.function.file is file]
    others = [f for f in project.by_name.get(name, []) if not any(f is wait.function for wait in waits)]
    return here[0] if here else waits[0] if not others else None


def _calls(project: Project, function: Function, name: str) -> Iterator[Tuple[Node, Optional[bool]]]:
    flows = project.flows(function)
    for start, (node, attached) in flows[0].calls.items() if flows else ():
        callee = node.child_by_field_name("function")
        if re.split(r"->|\.|::", function.file.text(callee))[-1] == name:
            yield node, _one({a for flow in flows for a in flow.calls.get(start, (node, attached))[1]})


def _in_cython(rule: Rule, file: CythonFile, joins: Dict[str, Tuple[Function, Event]]) -> Iterator[Finding]:
    """Calls under the GIL; the callback is a `with gil` function of the file."""
    callback = file.functions[0].function
    for call in file.calls:
        what = names.LIBRARY_WAITS.get(call.name) or ("a thread" if call.name in joins else "")
        if what and call.attached:
            inside = joins.get(call.name)
            where = [related(inside[0].file, inside[1], "it waits here")] if inside else []
            yield rule.on(
                file.span_of_call(call),
                f"{call.name} waits for {what} while this one is attached, and {callback} attaches.",
                CYTHON_HELP,
                function=call.function,
                confidence=Confidence.MEDIUM,
                related=where,
            )


def _joins_of_callback_threads(project: Project) -> Dict[str, Tuple[Function, Event]]:
    """Functions of the tree that wait for a thread which calls what it was given to call."""
    found: Dict[str, Tuple[Function, Event]] = {}
    for function in project.functions:
        for event in function.of(Kind.JOIN):
            if event.name in names.LIBRARY_WAITS or not _joins_thread(function, event):
                continue
            started = set(_started(function))
            back = any(f.name in started and _calls_back(f) for f in function.file.functions)
            if back and _attached(project, _Wait(function, event, "", "", Confidence.MEDIUM)) is None:
                found.setdefault(function.name, (function, event))
    return found


def _calls_back(function: Function) -> bool:
    """It calls through a variable, a parameter or, in C, a member: what that is comes from elsewhere."""
    variables = {*function.locals, *function.parameters}
    for node in ctree.walk(function.body):
        callee = node.child_by_field_name("function") if node.type == "call_expression" else None
        if callee is None:
            continue
        if callee.type == "identifier" and function.file.text(callee) in variables:
            return True
        member = callee.type == "field_expression" and function.file.language == "c"
        if member or callee.type == "parenthesized_expression":
            return True
    return False


def _finding(rule: Rule, wait: _Wait, node: Node, inside: Optional[Function] = None) -> Finding:
    file = wait.function.file
    where: List[Related] = []
    what = wait.what
    if inside is not None:
        where = [related(inside.file, wait.event, "it waits here")]
        what = f"{file.text(node.child_by_field_name('function'))} waits for a thread"
    return rule.at(
        wait.function,
        node,
        f"{what} while this one is attached, and {wait.attaching} attaches.",
        CYTHON_HELP if file.cython else HELP,
        confidence=wait.confidence,
        related=where,
        edits=_edits(file, node),
        fix=Fix.UNSAFE,
    )


def _edits(file: CFile, node: Node) -> List[Edit]:
    """Two lines around a statement of its own that stands in a block; what else runs meanwhile is for people to say."""
    statement = node.parent
    alone = statement is not None and statement.type == "expression_statement"
    if not alone or statement.parent.type != "compound_statement":
        return []
    indent = file.indent(statement)
    if indent is None or file.language != "c":
        return []
    end = int(statement.end_byte)
    return [
        Edit(statement.start_byte, statement.start_byte, f"Py_BEGIN_ALLOW_THREADS{file.newline}{indent}"),
        Edit(end, end, f"{file.newline}{indent}Py_END_ALLOW_THREADS"),
    ]
