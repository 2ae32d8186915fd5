"""P113: PyEval_RestoreThread with a state that some other function saved."""

from __future__ import annotations

import re
from typing import Iterator, List, Optional, Set

from .. import ctree
from ..ctree import Event, Function, Kind, arguments
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, rule

RESTORES = ("PyEval_RestoreThread", "PyEval_AcquireThread")
SAVES = ("PyEval_SaveThread", "PyEval_ReleaseThread")
HELP = "Use PyThreadState_EnsureFromView(view) and PyThreadState_Release(token), which nest."


@rule(
    "P113",
    "saved-state",
    "attaching with a thread state that was saved elsewhere",
    Severity.WARNING,
    why="PyEval_RestoreThread has no way to fail: once finalization has begun the calling thread is ended inside its "
    "own frames (up to 3.13.7) or never returns (3.13.8+). A thread state is for the thread that saved it.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    project = project.with_cython
    made = {_member(e.key) for function in project.functions for e in function.of(Kind.NEW_STATE)}
    routines = {ctree.routine_name(f, given) for f in project.files for _, given in ctree.started(f)}
    for function in project.functions:
        if embeds(function) or function.called_by_python or function.is_destructor or function.is_constructor:
            continue
        for event in function.of(Kind.REATTACH):
            if event.name in RESTORES and event.macro is None:
                state = _elsewhere(function, event)
                if state is not None and _member(state) not in made:  # those are for P108
                    yield from _judge(rule, function, event, state, routines)


def _judge(rule: Rule, function: Function, event: Event, state: str, routines: Set[str]) -> Iterator[Finding]:
    if function.name in routines:
        what = f"{function.name} runs as a thread of its own, and attaches with {state}, which is another thread's."
    elif _saves_again(function, event, state):
        what = f"{event.name} attaches with {state}, which was saved elsewhere, and has no way to fail."
    else:
        return
    yield rule.at(function, event.node, what, HELP, variable=state)


def _member(key: str) -> str:
    return re.split(r"->|\.", key)[-1]


def _elsewhere(function: Function, event: Event) -> Optional[str]:
    """What it is given, if a callback finds it by itself, and the function did not fill it before.

    What a caller hands over by its type, or a member of this object, may be the caller's own, of the same call.
    """
    given = arguments(event.node)
    if not given:
        return None
    state = ctree.normal(function.file, ctree.strip_casts(given[0]))
    if not re.fullmatch(r"[\w.>\-]+", state):
        return None
    base = re.split(r"->|\.", state)[0]
    if base in function.locals:
        if not _is_user_data(function, base):
            return None
    elif base in function.parameters or base not in function.file.globals:
        return None
    before = (e for e in function.of(Kind.DETACH, Kind.NEW_STATE) if e.start < event.start)
    return None if any(True for _ in before) else state


def _is_user_data(function: Function, variable: str) -> bool:
    """A local variable that is made of a parameter that is a `void *`."""
    made = re.search(rb"\b%b\s*=\s*(?:\([^()]*\)|[\w:]+<[^<>]*>\()?\s*(\w+)" % variable.encode(), function.text)
    source = made.group(1).decode() if made is not None else ""
    return function.parameters.get(source, "").replace(" ", "") == "void*"


def _saves_again(function: Function, event: Event, state: str) -> bool:
    """`PyEval_RestoreThread(saved); ...; saved = PyEval_SaveThread();`: a callback between two waits of its caller."""
    later: List[Event] = [e for e in function.of(Kind.DETACH) if e.start > event.start and e.name in SAVES]
    return any(_given(function, e) == state for e in later)


def _given(function: Function, event: Event) -> str:
    if event.name == "PyEval_SaveThread":
        return ctree.result_variable(function.file, event.node)
    given = arguments(event.node)
    return ctree.normal(function.file, ctree.strip_casts(given[0])) if given else ""
