"""P204: a view of the main interpreter in a module for subinterpreters."""

from __future__ import annotations

import posixpath
import re
from typing import Iterator

from ..ctree import Kind
from ..model import Finding, Severity
from ..project import Project, embeds
from ..registry import Rule, rule

SUPPORTS = re.compile(
    rb"\{\s*Py_mod_multiple_interpreters\s*,\s*Py_MOD_(?:PER_INTERPRETER_GIL|MULTIPLE_INTERPRETERS)_SUPPORTED"
)
SUPPORTS_CYTHON = re.compile(rb"^#\s*cython:.*\bsubinterpreters_compatible\s*=\s*(?:own_gil|shared_gil)", re.MULTILINE)
MESSAGE = "A view of the main interpreter, but %s says that its module supports subinterpreters."
HELP = "Make the view with PyInterpreterView_FromCurrent where the callback is registered."


def _is_near(one: str, other: str) -> bool:
    """In one folder, or one folder above the other: what is checked may hold several modules."""
    first, second = (posixpath.dirname(path) + "/" for path in (one, other))
    return first.startswith(second) or second.startswith(first)


@rule(
    "P204",
    "view-of-main",
    "a view of the main interpreter in a module for subinterpreters",
    Severity.WARNING,
    why="A callback that was registered in a subinterpreter would run in the main one, with objects of the other.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    supporting = [file.path for file in project.files if SUPPORTS.search(file.data)]
    supporting += [file.path for file in project.cython if SUPPORTS_CYTHON.search(file.data)]
    if not supporting:
        return
    for function in project.functions:
        for event in function.of(Kind.FROM_MAIN):
            module = next((path for path in supporting if _is_near(path, function.file.path)), None)
            if module is not None and not embeds(function):
                yield rule.at(function, event.node, MESSAGE % module, HELP)
    for file in project.cython:
        module = next((path for path in supporting if _is_near(path, file.path)), None)
        for call in file.calls if module is not None else ():
            if call.name == "PyInterpreterView_FromMain":
                yield rule.on(file.span_of_call(call), MESSAGE % module, HELP, function=call.function)
