"""P103: PyGILState_Ensure in one function, PyGILState_Release in another."""

from __future__ import annotations

import re
from typing import Iterator, List, Tuple

from .. import names
from ..ctree import Event, Function, Kind
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, related, rule
from .p102_missing_release import leaks


@rule(
    "P103",
    "split-pair",
    "PyGILState_Ensure in one function, PyGILState_Release in another",
    Severity.WARNING,
    why=names.LATE,
    replaces=("P101",),  # of Cython
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    project = project.with_cython
    for function in project.functions:
        if embeds(function) or function.is_constructor:
            continue
        for event in function.of(Kind.ENSURE):
            if event.macro is not None or _is_attached_already(function, event):
                continue
            if not function.has_error and not project.pairs(function, event):
                if not any(leak is event for leak, _ in leaks(project, function)):
                    yield _finding(rule, project, function, event)


def _finding(rule: Rule, project: Project, function: Function, event: Event) -> Finding:
    handed_on = _is_handed_on(function, event)
    elsewhere = _releases(project, function, event) if handed_on else []
    how = "leaves the release to others, who go on as if attached" if handed_on else "does not release it"
    return rule.at(
        function,
        event.node,
        f"{function.name or 'This function'} calls PyGILState_Ensure and {how}.",
        "Let the function return the PyThreadStateToken *, NULL for failure, and let each caller test it.",
        related=[related(other.file, release, "may be released here") for other, release in elsewhere[:3]],
        variable=event.key,
        same_file=all(other.file is function.file for other, _ in elsewhere),
    )


def _is_attached_already(function: Function, event: Event) -> bool:
    """It says so itself: `assert(state == PyGILState_LOCKED);`, a count that is meant to stay."""
    return re.search(rb"\b%b\s*==\s*PyGILState_LOCKED" % re.escape(event.key.encode()), function.text) is not None


def _is_handed_on(function: Function, event: Event) -> bool:
    """What it gave is returned, or is kept in something that others can see."""
    if event.key not in function.locals:
        return True
    key = re.escape(event.key.encode())
    used = rb"\breturn\b[^;]*\b%b\b|&\s*%b\b|[(,]\s*%b\s*[,)]" % (key, key, key)
    return re.search(used, function.text) is not None


def _releases(project: Project, function: Function, event: Event) -> List[Tuple[Function, Event]]:
    member = re.split(r"->|\.", event.key)[-1]
    found: List[Tuple[bool, bool, int, Function, Event]] = []
    for other in project.functions:
        for release in other.of(Kind.RELEASE):
            if other is not function and release.macro is None and not _own(other, release):
                same = bool(member) and re.split(r"->|\.", release.key)[-1] == member
                found.append((not same, other.file is not function.file, len(found), other, release))
    return [(other, release) for _, _, _, other, release in sorted(found, key=lambda entry: entry[:3])]


def _own(function: Function, release: Event) -> bool:
    """It releases what it acquired itself."""
    return any(e.key == release.key for e in function.of(Kind.ENSURE))
