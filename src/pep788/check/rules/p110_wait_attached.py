"""P110: waiting for a native thread while attached."""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple

from .. import ctree
from ..ctree import Event, Function, Kind, arguments
from ..model import Confidence, Finding, Severity
from ..project import Project, type_of
from ..registry import Rule, rule

THREAD_TYPES = ("std::thread", "std::jthread", "boost::thread")


@rule(
    "P110",
    "wait-attached",
    "waiting for a native thread while attached",
    Severity.ERROR,
    why="The thread waits to attach until this one detaches, and this one waits for the thread: neither goes on, "
    "with or without finalization.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        for event in function.of(Kind.JOIN):
            if _joins_thread(function, event) and _is_attached(project, function, event):
                needs = _thread_attaches(project, function)
                if needs is not None:
                    yield _finding(rule, function, event, *needs)


def _joins_thread(function: Function, event: Event) -> bool:
    if event.name != "join":
        return True
    key = event.key.split("[")[0].replace("this->", "")
    declared = type_of(function, _range_of(function, event, key) or key) or ""
    return any(name in declared for name in THREAD_TYPES)


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


def _is_attached(project: Project, function: Function, event: Event) -> bool:
    """On every path, whatever is compiled in."""
    flows = project.flows(function)
    seen = [flow.visits.get((event.start, event.kind.value)) for flow in flows]
    states = [state for visit in seen if visit is not None for state in visit[1]]
    return bool(states) and all(state.attached for state in states)


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
    """Start routines given to pthread_create and std::thread in this file."""
    found = []
    for node in ctree.walk(function.file.root):
        if node.type == "call_expression":
            callee = function.file.text(node.child_by_field_name("function"))
            given = arguments(node)
            at = {"pthread_create": 2, "thrd_create": 1, "std::thread": 0, "std::jthread": 0}.get(callee)
            if at is not None and len(given) > at:
                found.append(function.file.text(given[at]).lstrip("&").split("::")[-1])
    return found


def _finding(rule: Rule, function: Function, event: Event, thread: str, confidence: Confidence) -> Finding:
    return rule.at(
        function,
        event.node,
        f"{event.name} waits for a thread while this one is attached, and {thread} attaches.",
        "Detach around the wait: Py_BEGIN_ALLOW_THREADS ... Py_END_ALLOW_THREADS. No kind of Ensure helps here.",
        confidence=confidence,
    )
