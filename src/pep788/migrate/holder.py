"""The struct that a callback is handed as its user data, as the place for its view.

The view is of the interpreter that made the struct: stored where it is allocated, by a thread that is attached there,
and closed where it is freed.  Only if all of the struct's life can be seen in the tree.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, FrozenSet, Iterable, Iterator, List, Union

from ..check import ctree, project
from ..check.ctree import CFile, Event, Function, Node, declared, walk
from ..check.project import Project
from ..check.sources import SWIG_SUFFIXES, Item
from .life import Life, NoHolder, Store, declared_name, is_always_done, is_around, without_casts
from .pair import statement_of

_JUMPS = ("return_statement", "goto_statement", "break_statement", "continue_statement", "throw_statement")
_HEADS = ("PyObject_HEAD", "PyObject_VAR_HEAD")
"""Macros in a struct without a semicolon, which the parser would take for the type of the next member."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """A store as one callback sees it."""

    store: Store
    expression: str


class Holders:
    """All structs of the tree that could hold a view; each is looked into once."""

    def __init__(self, whole: Project, items: Dict[str, Item], others: Iterable[Item]) -> None:
        self._whole = whole
        self._items = items
        self._others = list(others)
        self._files: Dict[str, CFile] = {}
        self._known: Dict[str, Union[Store, str]] = {}

    def of(self, function: Function, ensure: Event) -> Holder:
        reasons: List[str] = []
        found: List[Holder] = []
        for candidate in _candidates(function, statement_of(ensure.node)):
            if not _is_certain(function, candidate, ensure.start):
                continue
            try:
                store = self._store(candidate.type)
            except NoHolder as error:
                reasons += [f"no view is kept in {candidate.type}: {error}"] if str(error) else []
            else:
                found.append(Holder(store, f"{candidate.expression}->{store.member}"))
        if len({id(holder.store) for holder in found}) == 1:
            return found[0]
        raise NoHolder("it could be kept in several structs" if found else "; ".join(dict.fromkeys(reasons)))

    def _store(self, name: str) -> Store:
        if name not in self._known:
            try:
                self._known[name] = Life(name, self._mentioning, self._whole).store()
            except NoHolder as error:
                self._known[name] = str(error)
        known = self._known[name]
        if isinstance(known, str):
            raise NoHolder(known)
        return known

    def _mentioning(self, words: FrozenSet[str]) -> List[CFile]:
        """The files that have one of these words; all of them have to be readable."""
        pattern = re.compile(rb"\b(?:" + b"|".join(re.escape(word).encode() for word in sorted(words)) + rb")\b")
        for item in self._others:
            if pattern.search(item.data):
                raise NoHolder(f"it is in {item.path}, too")
        found = []
        for path, item in self._items.items():
            if pattern.search(item.data):
                if path.lower().endswith(SWIG_SUFFIXES):
                    raise NoHolder(f"it is in {path}, too")
                if path not in self._files:
                    try:
                        self._files[path] = project.parse_c(item, [*self._whole.macros, *_HEADS])
                    except ctree.TooDeep:
                        raise NoHolder(f"it is in {path}, too") from None
                found.append(self._files[path])
        return found


# --- in the callback


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A pointer to a struct in a callback: `name` is the variable that the struct is reached through."""

    type: str
    name: str
    expression: str


def _candidates(function: Function, statement: Node) -> Iterator[_Candidate]:
    """Parameters of a pointer type, and variables that a parameter is cast to."""
    stable = {name for name in {**function.parameters, **function.locals} if not _is_changed(function, name)}
    for name, type_text in function.parameters.items():
        if name in stable and _pointed(type_text):
            yield _Candidate(_pointed(type_text), name, name)
    for node in walk(function.body, skip=frozenset({"lambda_expression"})):
        if node.type != "init_declarator" or node.parent.type != "declaration":
            continue
        for name, type_text in declared(function.file, node.parent):
            value = without_casts(function.file, node.child_by_field_name("value"))
            declarator = node.child_by_field_name("declarator")
            if not _pointed(type_text) or name not in stable or value is None:
                continue
            if declared_name(function.file, declarator) != name:
                continue
            source = function.file.text(value)
            if value.type == "identifier" and source in function.parameters and source in stable:
                whole = function.file.text(node.child_by_field_name("value"))
                ready = node.end_byte <= statement.start_byte and is_around(node.parent.parent, statement)
                cast = "(" + whole + ")" if value != node.child_by_field_name("value") else ""
                cast = cast or f"(({_pointed(type_text)} *){source})"
                yield _Candidate(_pointed(type_text), name, name if ready else cast)


def _pointed(type_text: str) -> str:
    """The struct of a pointer to one, "" for other types."""
    name = " ".join(type_text[:-1].split())
    is_struct = re.fullmatch(r"(?:struct )?[A-Za-z_]\w*", name) and name not in ("void", "char", "int", "PyObject")
    return name if type_text.endswith("*") and is_struct else ""


def _is_changed(function: Function, name: str) -> bool:
    """Assigned, or its address is taken, or it is declared more than once."""
    count = 0
    for node in walk(function.node):
        if node.type == "assignment_expression":
            target = node.child_by_field_name("left")
        elif node.type == "update_expression" or (node.type == "pointer_expression" and node.children[0].type == "&"):
            target = node.child_by_field_name("argument")
        elif node.type in ("declaration", "parameter_declaration"):
            count += sum(found == name for found, _ in declared(function.file, node))
            continue
        else:
            continue
        if target is not None and target.type == "identifier" and function.file.text(target) == name:
            return True
    return count != 1


def _is_certain(function: Function, candidate: _Candidate, ensure: int) -> bool:
    """The struct is used whenever the Ensure is reached, so the pointer is one to a struct then."""
    for node in walk(function.body):
        if node.type != "field_expression" or node.children[1].type != "->":
            continue
        argument = node.child_by_field_name("argument")
        if argument.type != "identifier" or function.file.text(argument) != candidate.name:
            continue
        if is_always_done(function.body, node, ensure) and not _jumps(function.body, ensure, node.start_byte):
            return True
    return False


def _jumps(body: Node, start: int, end: int) -> bool:
    return any(node.type in _JUMPS and start < node.start_byte < end for node in walk(body))
