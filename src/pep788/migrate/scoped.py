"""gil_scoped_acquire of pybind11 and nanobind: ours in its place, and a test of it.

The view is the module's, which pep788::py::init() or pep788::nb::init() makes.  On failure the function is left at
once, as with a pair; C++ undoes what its own objects have begun.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

from ..check.ctree import CFile, Event, Function, Node, declared, walk
from ..check.model import Edit
from ..check.project import Project
from ..check.sources import Item
from . import edits, entry, pair
from .decisions import Decisions
from .model import Asked, Outcome, Refused, Site, shown_name
from .pair import BLOCKS, Pair, Twins

_ALIAS = re.compile(rb"\bnamespace\s+(\w+)\s*=\s*(?:::)?(pybind11|nanobind)\s*;")
_MODULE = re.compile(rb"^[ \t]*(PYBIND11_MODULE|NB_MODULE)\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*\{", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Binding:
    """A library with gil_scoped_acquire, and our header for it."""

    library: str
    space: str
    macro: str

    @property
    def header(self) -> str:
        return f"pep788/{self.library}.hpp"

    def include(self, path: str, vendored: Optional[str]) -> str:
        return entry.include_of(path, vendored, self.header)


BINDINGS = {
    "pybind11": Binding("pybind11", "py", "PYBIND11_MODULE"),
    "nanobind": Binding("nanobind", "nb", "NB_MODULE"),
}


@dataclasses.dataclass(frozen=True)
class Module:
    """The start of a module in C++: `at` is behind its brace."""

    path: str
    at: int
    binding: Binding
    exists: bool
    """It calls our init() already."""


class Bindings:
    """What a tree says of its bindings."""

    def __init__(self, items: Dict[str, Item]) -> None:
        self._spaces: Dict[str, str] = {name: name for name in BINDINGS}
        self._modules: List[Module] = []
        unclear = set()
        for item in items.values():
            for found in _ALIAS.finditer(item.data):
                alias, library = found.group(1).decode(), found.group(2).decode()
                if self._spaces.setdefault(alias, library) != library:
                    unclear.add(alias)
            for found in _MODULE.finditer(item.data):
                binding = next(b for b in BINDINGS.values() if b.macro.encode() == found.group(1))
                exists = re.compile(rb"\s*(?:::)?pep788::%b::init\(" % binding.space.encode())
                end = found.end()
                self._modules.append(Module(item.path, end, binding, exists.match(item.data, end) is not None))
        for alias in unclear:
            del self._spaces[alias]

    def of(self, name: str) -> Binding:
        """By the spelling of a gil_scoped_acquire."""
        space = name.rpartition("::")[0].lstrip(":")
        if space not in self._spaces:
            raise Refused(f"{name}: neither pybind11's nor nanobind's, as far as can be seen")
        return BINDINGS[self._spaces[space]]

    def module(self, binding: Binding) -> Module:
        found = [module for module in self._modules if module.binding is binding]
        if len(found) != 1:
            what = "none was found" if not found else f"there are {len(found)}"
            raise Asked(
                f"in which {binding.macro} is pep788::{binding.space}::init() to be called? Of those {what}",
                "name the files of one module on the command line",
            )
        return found[0]


class Scoped(Pair):
    """A variable of that class; it lives to the end of its block."""

    def __init__(self, project: Project, function: Function, event: Event) -> None:
        self.project = project
        self.function = function
        self.file = function.file
        self.ensure = event
        self.releases = []
        self.statement = event.node
        names = [name for name, _ in declared(self.file, event.node)] if event.node.type == "declaration" else []
        self.key = names[0] if len(names) == 1 else ""

    def refuse_unseen(self, twins: Twins = lambda _: None) -> None:
        node = self.ensure.node
        declarator = node.child_by_field_name("declarator")
        if not self.key or declarator is None or declarator.type != "identifier" or not self.key.isascii():
            raise Refused("gil_scoped_acquire: it is no plain variable")
        if self.function.body.has_error:
            raise Refused("gil_scoped_acquire: the function does not parse")
        if len(self._mentions()) != 1:
            raise Refused(f"gil_scoped_acquire: {self.key} is used, too")
        for block in self._around():
            if block.type not in BLOCKS:
                raise Refused(f"gil_scoped_acquire is in {pair.what(block)}")
            pair.refuse_parallel(self.file, block)
        pair.refuse_detached(self.function, self.ensure)
        if self.statement.parent.type != "compound_statement":
            raise Refused("gil_scoped_acquire is in no block of its own")

    def _after_release(self) -> Iterator[Node]:
        """What has an effect behind its block."""
        if self.statement.parent == self.function.body:
            return
        for node in self._following(self.statement.parent):
            for part in walk(node):
                if self._has_effect(part):
                    yield part

    def _in_loops(self) -> Iterator[Node]:
        end, last = self.statement.start_byte, self.statement.parent.end_byte
        for loop in self._around():
            if loop.type in pair.LOOPS and not self._runs_once(loop):
                for node in walk(loop):
                    if (node.end_byte <= end or node.start_byte >= last) and self._has_effect(node):
                        yield node

    def edits(self, view: str, leave: List[str]) -> Iterator[Edit]:
        kind = self.ensure.node.child_by_field_name("type")
        yield Edit(kind.start_byte, kind.end_byte, f"pep788::{view}::gil_scoped_acquire")
        yield self._test(leave)

    @property
    def _failed(self) -> str:
        return f"!{self.key}"


def migrate(
    project: Project, function: Function, event: Event, decisions: Decisions, bindings: Bindings
) -> Tuple[Site, Module]:
    """The migrated site, and the module that has to be set up for it."""
    decision = decisions.of(function)
    if decision.skip:
        raise Refused(f"by decision: {decision.skip}")
    if decision.view or decisions.view:
        raise Refused("gil_scoped_acquire: a view by decision; write pep788::attached here(view) and test it")
    if function.is_constructor:
        raise Refused("gil_scoped_acquire in a constructor, which cannot report failure")
    pair.refuse_no_return(function)
    binding = bindings.of(event.name)
    site = Scoped(project, function, event)
    site.refuse_unseen()
    questions: List[Asked] = []
    site.ask_of_failure(decision, questions)
    leave = pair.or_ask(lambda: pair.leave_statements(function, decision, decisions), questions)
    module = pair.or_ask(lambda: bindings.module(binding), questions)
    if questions or leave is None or module is None:
        options = dict.fromkeys(option for question in questions for option in question.options)
        raise Asked(" And ".join(question.reason for question in questions), *options)
    notes, changes = tuple(site.notes()), tuple(site.edits(binding.space, leave))
    span = function.file.span(event.node)
    view = f"pep788::{binding.space}"
    return Site(span, shown_name(function), Outcome.MIGRATED, notes=notes, edits=changes, view=view), module


def set_up(modules: Iterable[Module], files: Dict[str, CFile], sites: Iterable[Tuple[str, Binding]],
           vendored: Optional[str]) -> Dict[str, List[Edit]]:  # fmt: skip
    """The includes and the calls of init(), by path."""
    found: Dict[str, List[Edit]] = {}
    wanted = {(path, binding.library): binding for path, binding in sites}
    for module in modules:
        wanted[module.path, module.binding.library] = module.binding
        if not module.exists:
            data = files[module.path].data
            indent = _first_indent(data, module.at)
            text = f"{edits.newline(data, module.at)}{indent}pep788::{module.binding.space}::init();"
            end = edits.after_line(data, module.at)
            edit = Edit(module.at, module.at, " " + text.strip()) if end is None else Edit(end, end, text)
            found.setdefault(module.path, []).append(edit)
    for (path, _), binding in sorted(wanted.items()):
        if not re.search(rb"^[ \t]*#[ \t]*include[ \t]*[\"<](?:[^\">\n]*/)?%b[\">]" % binding.header.encode(),
                         files[path].data, re.MULTILINE):  # fmt: skip
            found.setdefault(path, []).append(entry.at_top(files[path], [binding.include(path, vendored)]))
    return found


def _first_indent(data: bytes, at: int) -> str:
    following = re.compile(rb"[ \t]*(?:\r?\n)+(?P<indent>[ \t]*)\S").search(data, at)
    return following.group("indent").decode() if following is not None and following.group("indent") else "    "
