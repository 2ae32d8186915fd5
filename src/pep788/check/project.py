"""All that is checked in one run, parsed: what rules look at."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

from . import ctree, flow, names, preprocessor, sources, swig
from .binary import Binary
from .ctree import CFile, Event, Function, Kind, Macro
from .cython_tree import CythonFile
from .flow import Flow
from .sources import Item

EMBEDDING = frozenset({"main", "wmain", "WinMain", "wWinMain"})


@dataclasses.dataclass
class Project:
    """Files in the order they were found; macros of the whole tree by name."""

    files: List[CFile] = dataclasses.field(default_factory=list)
    macros: Dict[str, Macro] = dataclasses.field(default_factory=dict)
    harmless: Set[str] = dataclasses.field(default_factory=set)
    """The names of other macros that `files` define."""
    others: Dict[str, Dict[str, List[Macro]]] = dataclasses.field(default_factory=dict)
    """Their definitions, of each file by name: what they do is known, and has nothing to do with this."""
    structs: Dict[str, List[Dict[str, str]]] = dataclasses.field(default_factory=dict)
    """The members of structs that a state is kept in, of other files than the one that keeps it there."""
    known_in: Dict[str, Dict[str, Macro]] = dataclasses.field(default_factory=dict)
    """The macros that matter in a file: not those for which it has a definition of its own that does not."""
    cython: List[CythonFile] = dataclasses.field(default_factory=list)
    paths: Set[str] = dataclasses.field(default_factory=set)
    """Of all sources, those that were not worth parsing included."""
    binaries: List[Binary] = dataclasses.field(default_factory=list)
    functions: List[Function] = dataclasses.field(default_factory=list)
    """Those with an event; lambdas are functions of their own."""
    defined: Set[str] = dataclasses.field(default_factory=set)
    """The names of all functions in `files`."""
    twins: Dict[int, List[Tuple["Project", Function]]] = dataclasses.field(default_factory=dict)
    """Of functions that cannot be followed as they are, by their identity: the same with their macros expanded, each in
    a project of its own."""
    made: List[Tuple["Project", Function]] = dataclasses.field(default_factory=list)
    """Functions that macros make."""
    _flows: Dict[int, List[Flow]] = dataclasses.field(default_factory=dict)

    def flows(self, function: Function) -> List[Flow]:
        """The function's paths, once for each side of conditional compilation; none if it is not understood."""
        key = id(function)
        if key not in self._flows:
            both = (True, False) if b"#if" in function.text else (True,)
            path = function.file.path
            others = {**self._others, **_jumping(self.others.get(path, {}))}
            flows = [Flow(function, self.known_in[path], others, taken) for taken in both]
            self._flows[key] = flows if all(flow.understood for flow in flows) else []
        return self._flows[key]

    @functools.cached_property
    def _others(self) -> Dict[str, Optional[Macro]]:
        merged: Dict[str, List[Macro]] = {}
        for found in self.others.values():
            for name, macros in found.items():
                merged.setdefault(name, []).extend(macros)
        return {**dict.fromkeys(self.harmless - set(merged)), **_jumping(merged)}

    @functools.cached_property
    def by_name(self) -> Dict[str, List[Function]]:
        found: Dict[str, List[Function]] = {}
        for function in self.functions:
            found.setdefault(function.name, []).append(function)
        return found

    def lost(self) -> List[Function]:
        """Functions that open something on paths that cannot be followed."""
        return [f for f in self.functions if any(e.kind in flow.OPENS for e in f.events) and not self.flows(f)]

    def followed(self) -> Iterator[Tuple["Project", Function]]:
        """All functions, those of Cython included, each with the project that its paths are of."""
        whole = self.with_cython
        for function in whole.functions:
            yield from whole.twins.get(id(function), [(whole, function)])
        yield from self.made

    @functools.cached_property
    def with_cython(self) -> "Project":
        """The same and the functions of Cython files, for rules that follow paths."""
        files = [file.paths for file in self.cython if file.paths is not None]
        if not files:
            return self
        whole = dataclasses.replace(self, files=[*self.files, *files], functions=list(self.functions))
        whole.defined, whole.known_in = set(self.defined), dict(self.known_in)
        for file in files:
            whole.known_in[file.path] = {}
            for function in file.functions:
                whole.defined.add(function.name)
                ctree.add_events(function, {})
                whole.functions.append(function)
        return whole

    def pairs(self, function: Function, acquired: Event) -> List[Event]:
        """The releases in the same function that are of this acquisition's variable."""
        return [e for e in function.of(Kind.RELEASE) if e.key == acquired.key or not acquired.key]

    def attaches(self, name: str, file: CFile, depth: int = 3) -> bool:
        """Whether a function of this name attaches, by itself or through functions of the tree that it calls.

        One in this file, where there is one: others of this name are others.
        """
        named = self.by_name.get(name, [])
        for function in [f for f in named if f.file is file] or named:
            if any(event.kind in ctree.ATTACHES for event in function.events):
                return True
            if depth and any(
                self.attaches(called, function.file, depth - 1) for called in calls(function) if called != name
            ):
                return True
        return False


def calls(function: Function) -> Set[str]:
    """Names of the functions it calls by name."""
    found = set()
    for node in ctree.walk(function.node):
        if node.type == "call_expression":
            callee = node.child_by_field_name("function")
            if callee is not None and callee.type == "identifier":
                found.add(function.file.text(callee))
    return found


def embeds(function: Function) -> bool:
    """It starts or ends Python itself, so finalization cannot overtake it."""
    return function.name in EMBEDDING or bool(function.of(Kind.INITIALIZE, Kind.FINALIZE))


def code_of(item: Item) -> bytes:
    """What a C parser can read of the file."""
    return swig.c_code(item.data) if item.suffix in sources.SWIG_SUFFIXES else item.data


def parse_c(item: Item, macros: Iterable[str]) -> CFile:
    given = code_of(item)
    code = _for_parser(given)
    cuts = preprocessor.cuts(code, ctree.directive_truth) if b"#" in code else []
    code = preprocessor.blank(code, cuts) if cuts else code
    masked = ctree.mask(code, [*names.STATEMENT_MACROS, *macros])
    extends = item.suffix in sources.SWIG_SUFFIXES and b"%extend" in item.data  # structs with functions in them
    language = "cpp" if extends else ctree.guess_language(item.path, code)
    masked = _EXPORT.sub(rb"\1      ", masked) if language == "cpp" else masked
    file = CFile(item.path, item.data, masked, language, given)
    file.cuts = cuts
    return file


_EXPORT = re.compile(rb"^([ \t]*)export(?=[ \t]+(?!module\b|import\b)[A-Za-z_\[:])", re.MULTILINE)
"""In front of a declaration of a C++20 module, which the parser does not know."""


def _for_parser(data: bytes) -> bytes:
    """It reads UTF-8 without null bytes; letters of other encodings become an underscore each: no byte moves."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = re.sub(rb"[\x80-\xff]", b"_", data)
    return data.replace(b"\0", b" ")


def find_macros(files: Iterable[CFile], known: Dict[str, Macro]) -> Dict[str, Macro]:
    """Macros that matter, those that matter through others included."""
    defined = [macro for file in files for macro in ctree.definitions(file)]
    found = dict(known)
    for _ in range(8):  # the longest chain of macros that use each other; real ones have two links
        before = len(found)
        for macro in defined:
            if _may_matter(macro, found) and ctree.understand(macro, found):
                _keep(found, macro)
        if len(found) == before:
            break
    return found


def _may_matter(macro: Macro, found: Dict[str, Macro]) -> bool:
    words = set(re.findall(r"\w+", macro.body))
    return any(ctree.kind_of(word) is not None for word in words) or not words.isdisjoint(found)


def _keep(found: Dict[str, Macro], macro: Macro) -> None:
    """Of several definitions the one that takes or gives up a state is the one to know."""
    other = found.get(macro.name)
    if other is None or (_weight(macro), -macro.node.start_byte) > (_weight(other), -other.node.start_byte):
        found[macro.name] = macro


def _weight(macro: Macro) -> int:
    return sum(kind in (Kind.ENSURE, Kind.RELEASE) for kind, _, _ in macro.calls)


def fill(project: Project) -> None:
    """Find the events of all functions."""
    words = [names.INTERESTING.pattern, rb"Py_Is(?:Finalizing|Initialized)|_join\b|\bjoin\b|Py_(?:BEGIN|END)_ALLOW"]
    words += [re.escape(name).encode() for name in project.macros]
    words += [rb"pthread_create|std::j?thread|std::(?:shared_)?future|std::async"]
    words += [re.escape(name).encode() for name in names.LIBRARY_WAITS]
    pattern = re.compile(b"|".join(words))
    for file in project.files:
        defined: Dict[str, List[Macro]] = {}
        for macro in ctree.definitions(file):
            defined.setdefault(macro.name, []).append(macro)
        own = {name: macros[-1] for name, macros in defined.items()}
        project.others[file.path] = {n: macros for n, macros in defined.items() if n not in project.macros}
        project.harmless.update(project.others[file.path])
        known = {n: m for n, m in project.macros.items() if n not in own or ctree.understand(own[n], project.macros)}
        project.known_in[file.path] = known
        for function in file.functions:
            project.defined.add(function.name)
            lambdas = ctree.add_events(function, known) if pattern.search(function.text) else []
            project.functions += [f for f in (function, *lambdas) if f.events or pattern.search(f.text)]


def struct_of(function: Function, key: str) -> str:
    """The struct or class that `session->state` is a member of, by the declared type of `session`; "" if unknown."""
    parts = re.split(r"->|\.", key)
    if len(parts) == 1:
        return function.owner if key not in function.locals and key not in function.parameters else ""
    base = parts[0]
    declared = function.locals.get(base) or function.parameters.get(base) or function.file.globals.get(base) or ""
    words = re.findall(r"\w+", re.sub(r"\b(?:struct|class|const|volatile|static)\b", "", declared))
    return words[-1] if len(parts) == 2 and words else ""


def _jumping(defined: Dict[str, List[Macro]]) -> Dict[str, Optional[Macro]]:
    """Each macro by its name, None if it jumps nowhere; left out where several definitions do not agree."""
    found: Dict[str, Optional[Macro]] = {}
    for name, macros in defined.items():
        bodies = {ctree.unquoted(macro.body).strip(" ;") for macro in macros}
        if not any(ctree.LEAVES.search(body) for body in bodies):
            found[name] = None
        elif len(bodies) == 1:
            found[name] = macros[0]
    return found


def type_of(function: Function, key: str) -> Optional[str]:
    """The declared type of a variable or member, as far as one declaration alone can tell; "" if there are several."""
    if key in function.locals:
        return function.locals[key]
    if key in function.parameters:
        return function.parameters[key]
    member = re.split(r"->|\.", key)[-1]
    if member in function.file.fields and (member != key or function.owner):
        types = function.file.fields[member]
        return next(iter(types)) if len(types) == 1 else ""
    return function.file.globals.get(key)
