"""P106: the result of PyGILState_Ensure is kept in a wrong type."""

from __future__ import annotations

import re
from typing import Iterator, List, Optional

from ..ctree import Event, Function, Kind, arguments, result_target
from ..model import Edit, Finding, Severity
from ..project import Project, struct_of, type_of
from ..registry import Rule, rule

PRIMITIVE = re.compile(
    r"(?:(?:const|volatile|static|unsigned|signed|struct)\s+)*"
    r"(?:int|long|long int|long long|short|char|bool|_Bool|unsigned|size_t|ssize_t|Py_ssize_t|u?intptr_t|u?int\d+_t"
    r"|void|DWORD|gpointer|gint|float|double)\s*\**"
)
CYTHON_PRIMITIVE = frozenset(
    {"int", "long", "short", "char", "size_t", "Py_ssize_t", "intptr_t", "uintptr_t", "void", "bint"}
)
HELP = "Keep it in a PyGILState_STATE; the PyThreadStateToken * that replaces it is a pointer, and an int would cut "
"it off."


@rule(
    "P106",
    "state-type",
    "the result of PyGILState_Ensure is kept in a wrong type",
    Severity.ERROR,
    why="PyThreadStateToken *, which takes the place of PyGILState_STATE, is a pointer: an int cuts it off, and a "
    "constant is no token.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for function in project.functions:
        for event in function.of(Kind.ENSURE):
            wrong = _kept_as(project, function, event) if event.macro is None else None
            if wrong is not None:
                message = f"The result of PyGILState_Ensure is kept as {wrong}."
                yield rule.at(function, event.node, message, HELP, edits=_edits(function, event))
        for event in function.of(Kind.RELEASE):
            if event.macro is None:
                yield from _release(rule, function, event)
    for file in project.cython:
        for ensure in file.ensures:
            if ensure.type_name.rstrip(" *") in CYTHON_PRIMITIVE:
                message = f"The result of PyGILState_Ensure is kept as {ensure.type_name}."
                yield rule.on(ensure.span, message, HELP, function=ensure.function)


def _kept_as(project: Project, function: Function, event: Event) -> Optional[str]:
    parent = event.node.parent
    while parent is not None and parent.type in ("cast_expression", "parenthesized_expression"):
        if parent.type == "cast_expression":
            cast = function.file.text(parent.child_by_field_name("type")).strip()
            if PRIMITIVE.fullmatch(cast) and cast != "void":
                return cast
        parent = parent.parent
    if result_target(event.node) is None or not event.key:
        return None
    declared = type_of(function, event.key)
    if declared is None:
        declared = _member_elsewhere(project, struct_of(function, event.key), event.key)
    return declared if declared and PRIMITIVE.fullmatch(declared) else None


def _member_elsewhere(project: Project, struct: str, key: str) -> Optional[str]:
    """The type of a member of a struct that another file defines, if all structs of that name agree."""
    member = re.split(r"->|\.", key)[-1]
    types = {members.get(member) for members in project.structs.get(struct, ())}
    return next(iter(types)) if len(types) == 1 else None


def _edits(function: Function, event: Event) -> List[Edit]:
    """`int state = PyGILState_Ensure();`: only a declaration of this one variable, without a cast, is changed."""
    declarator = event.node.parent
    declaration = declarator.parent if declarator is not None and declarator.type == "init_declarator" else None
    if declaration is None or declaration.type != "declaration":
        return []
    if len(declaration.children_by_field_name("declarator")) != 1:
        return []
    name = declarator.child_by_field_name("declarator")
    kind = declaration.child_by_field_name("type")
    if name is None or name.type != "identifier" or kind is None:
        return []
    return [Edit(kind.start_byte, kind.end_byte, "PyGILState_STATE")]


def _release(rule: Rule, function: Function, event: Event) -> Iterator[Finding]:
    given = arguments(event.node)
    if not given:
        return
    text = function.file.text(given[0]).strip()
    if text in ("PyGILState_UNLOCKED", "PyGILState_LOCKED"):
        message = f"PyGILState_Release is given the constant {text}, not what PyGILState_Ensure returned."
        yield rule.at(function, event.node, message, "Keep the result of PyGILState_Ensure and give that.")
    elif given[0].type != "cast_expression":
        return
    else:
        declared = type_of(function, event.key)
        if declared and PRIMITIVE.fullmatch(declared):
            message = f"PyGILState_Release is given {event.key}, which is a {declared}."
            yield rule.at(function, event.node, message, HELP)
