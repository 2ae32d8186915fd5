"""Gives a module its view: the include, the variable, and the calls in its init function.

The view is of the main interpreter, which is where PyGILState_Ensure attaches a thread that Python does not know, and
it stays good when an embedding program initializes Python again.  So it is wrong for a module that says it supports
several interpreters: there the author is asked.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from ..check import ctree, preprocessor, project, swig
from ..check.ctree import CFile, Function, Node, walk
from ..check.model import Edit
from ..check.rules.p204_from_main import SUPPORTS
from ..check.sources import SWIG_SUFFIXES, Item
from . import edits
from .model import Asked

INIT = re.compile(rb"\bPyInit_\w+")
_INIT_HEAD = re.compile(rb"\bPyMODINIT_FUNC\b[^{};]*\{")
HEADER = "pep788.h"
NATIVE = (3, 15)
_HEADERS = (".h", ".hh", ".hpp", ".hxx", ".h++", ".inl", ".inc")
_EXEC_SLOT = re.compile(
    rb"\{\s*Py_mod_exec\s*,\s*(?:\(\s*void\s*\*\s*\)\s*|reinterpret_cast<void ?\*>\(\s*)?&?\s*(\w+)"
)
_MAKES_VIEW = re.compile(rb"(\w+)\s*=\s*PyInterpreterView_From(?:Main|Current)\s*\(")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a module is set up: its init function, its exec slot, or the end of SWIG's code."""

    item: Item
    module: str
    function: Optional[Function]
    """None for SWIG, which writes the function itself."""
    returns: str
    """What it returns on failure."""
    subinterpreters: bool = False
    """Some module of the tree says that it supports several interpreters."""

    @property
    def name(self) -> str:
        return self.function.name if self.function is not None else "%init"


def find(items: Iterable[Item]) -> List[Entry]:
    """The init functions written in C or C++."""
    found = []
    items = list(items)
    subinterpreters = any(SUPPORTS.search(item.data) for item in items)
    for item in items:
        if INIT.search(item.data) and item.suffix not in SWIG_SUFFIXES:
            try:
                file = _parsed(item)
            except ctree.TooDeep:
                continue
            for function in file.functions:
                if INIT.fullmatch(function.name.encode()):
                    entry = _entry(item, file, function)
                    found.append(dataclasses.replace(entry, subinterpreters=subinterpreters))
    return found


def _entry(item: Item, file: CFile, function: Function) -> Entry:
    module = function.name[len("PyInit_") :]
    if b"PyModuleDef_Init" not in function.text:
        return Entry(item, module, function, "NULL")
    slot = _EXEC_SLOT.search(item.data)
    for other in file.functions:
        if slot is not None and other.name.encode() == slot.group(1):
            return Entry(item, module, other, "-1")
    return Entry(item, module, function, "")  # its interpreter need not be the one that the module is for


def _parsed(item: Item) -> CFile:
    """As the check parses it, but with the lines of `#if` and `#endif` gone where only one arm can be compiled.

    `PyMODINIT_FUNC #if PY_MAJOR_VERSION >= 3 PyInit_x(void) #else initx(void) #endif {` is a function then.
    """
    file = project.parse_c(item, ())
    lines = list(_decided(file.root))
    if not lines:
        return file
    code = project.parse_c(Item(item.path, preprocessor.blank(item.data, lines)), ())
    return CFile(item.path, item.data, code.root.text, code.language)


def _decided(root: Node) -> Iterator[Tuple[int, int]]:
    """Directives and arms to leave out: what no supported version compiles, and in the head of an init function, where
    only the name depends on it, all but the first arm."""
    heads = [found.span() for found in _INIT_HEAD.finditer(root.text)]
    for node in walk(root):
        if node.type not in ("preproc_if", "preproc_ifdef"):
            continue
        known = preprocessor.condition_truth(node)
        if known is None and not any(start < node.start_byte < end for start, end in heads):
            continue
        head = node.child_by_field_name("condition") or node.child_by_field_name("name")
        other = node.child_by_field_name("alternative")
        end = node.children[-1]
        if head is None or end.type != "#endif" or (other is not None and other.type != "preproc_else"):
            continue
        if known is not False:
            yield node.start_byte, head.end_byte
            yield (other if other is not None else end).start_byte, end.end_byte
        elif other is not None:
            yield node.start_byte, other.start_byte + len("#else")
            yield end.start_byte, end.end_byte


def choose(entries: List[Entry], file: CFile, swig_files: List[CFile]) -> Entry:
    """The module that a file belongs to."""
    if file.path.lower().endswith(_HEADERS):
        raise Asked("which module is this header part of?", 'view = "EXPR" in the decisions file')
    if file.path.lower().endswith(SWIG_SUFFIXES):
        if len(swig_files) == 1:
            return Entry(Item(file.path, file.data), _swig_module(file), None, "")
        raise Asked("which of the SWIG files is to make the view?", 'view = "EXPR" in the decisions file')
    own = [entry for entry in entries if entry.item.path == file.path]
    candidates = own or entries
    if not candidates:
        raise Asked(
            "where is the module's init function? None was found in C or C++",
            'view = "EXPR" in the decisions file, for a view that you make and set up yourself',
        )
    if len(candidates) > 1:
        names = ", ".join(entry.name for entry in candidates[:3])
        raise Asked(
            f"which module is this part of? There are {names}",
            "name only the files of one module on the command line",
            'view = "EXPR" in the decisions file, for a view that you make and set up yourself',
        )
    entry = candidates[0]
    if not entry.returns:
        raise Asked(
            f"where does {entry.module} run its own set-up? Its Py_mod_exec function is not in {entry.item.path}",
            'view = "EXPR" in the decisions file, for a view that you make and set up yourself',
        )
    return entry


def refuse_static(entry: Entry) -> None:
    if entry.subinterpreters:
        raise Asked(
            f"{entry.module} says that it supports several interpreters: which one is this callback for?",
            'view = "EXPR" in the decisions file: a PyInterpreterView * made with PyInterpreterView_FromCurrent where '
            "the callback is registered, and kept in its user data",
        )


def _swig_module(file: CFile) -> str:
    found = re.search(rb"^%module(?:\s*\([^)]*\))?\s+(\w+)", file.data, re.MULTILINE)
    return found.group(1).decode() if found else os.path.basename(file.path).split(".")[0]


@dataclasses.dataclass
class Module:
    """One entry and the files with sites that use its view."""

    entry: Entry
    files: List[CFile]
    variable: str
    exists: bool
    """The init function already makes it."""

    @property
    def shared(self) -> bool:
        return any(file.path != self.entry.item.path for file in self.files)


def module(entry: Entry, files: List[CFile], words: "set[bytes]") -> Module:
    """`words` are all that the view's name must differ from."""
    body = entry.function.text if entry.function is not None else entry.item.data
    made = _MAKES_VIEW.search(body)
    if made is not None:
        return Module(entry, files, made.group(1).decode(), True)
    name = f"{entry.module.strip('_') or 'module'}_main_view"
    while name.encode() in words:
        name += "_"
    return Module(entry, files, name, False)


def include_of(path: str, vendored: Optional[str], header: str = HEADER) -> str:
    """The header as a file sees it: by its relative path where it is vendored."""
    if vendored is None:
        return f"#include <{header}>"
    relative = os.path.relpath(os.path.join(vendored, header), os.path.dirname(path) or ".").replace(os.sep, "/")
    return f'#include "{relative}"'


def changes(
    module: Module, vendored: Optional[str], native: bool, structs: Mapping[str, int]
) -> Dict[str, List[Edit]]:
    """The edits by path; `native`: no supported Python needs the header.

    Without files the module needs no view, only its set-up. `structs` are places that need the header in front of them.
    """
    found: Dict[str, List[Edit]] = {}
    owner = module.entry.item
    made = _set_up(module, native)
    if not module.files and made is None:
        return {}
    files = {file.path: file for file in module.files}
    owner_file = files.get(owner.path) or _parsed(owner)
    for file in {owner.path: owner_file, **files}.values():
        lines = [] if native or includes(file.data) else [include_of(file.path, vendored)]
        lines += _variable(module, file, owner_file) if module.files else []
        if lines:
            found.setdefault(file.path, []).append(at_top(file, lines, structs.get(file.path)))
    if made is not None:
        found.setdefault(owner.path, []).append(made)
    return found


def include(file: CFile, vendored: Optional[str], before: Optional[int]) -> List[Edit]:
    """For a file that has no view of its own; `before`: a struct that needs it."""
    return [] if includes(file.data) else [at_top(file, [include_of(file.path, vendored)], before)]


def includes(data: bytes) -> bool:
    return (
        re.search(rb'^[ \t]*#[ \t]*include[ \t]*["<](?:[^">\n]*/)?pep788\.h(?:pp)?[">]', data, re.MULTILINE) is not None
    )


def _variable(module: Module, file: CFile, owner: CFile) -> List[str]:
    """Its definition or declaration, unless it is there; C and C++ files of one module agree on its linkage."""
    declared = f"PyInterpreterView *{module.variable};"
    if re.search(rb"PyInterpreterView\s*\*\s*%b\b" % module.variable.encode(), file.data):
        return []
    if not module.shared and not module.exists:
        return ["", f"static {declared}"]
    mixed = len({other.language for other in (owner, *module.files)}) > 1
    outside = 'extern "C"' if mixed and file.language == "cpp" else "extern"
    if file.path != owner.path or module.exists:
        return ["", f"{outside} {declared}"]
    return ["", *([f"{outside} {declared}"] if mixed and file.language == "cpp" else []), declared]


def at_top(file: CFile, lines: List[str], before: Optional[int] = None) -> Edit:
    """Behind the last include in front of the first function, at a place that is compiled whenever the file is."""
    first = min((function.node.start_byte for function in file.functions), default=len(file.data))
    first = first if before is None else min(first, before)
    place = None
    for node in _top_level(file.root):
        has_include = node.type == "preproc_include" or (
            node.type in preprocessor.CONDITIONALS and any(n.type == "preproc_include" for n in walk(node))
        )
        if has_include and node.start_byte < first and not _in_special_block(file, node.start_byte):
            if node.end_byte <= first:
                place = node.end_byte
    if place is None:
        raise Asked(
            f"where in {file.path} does the include go? It has none of its own before its first function",
            "add an include of pep788.h, or of a header of yours that has it, in front of the functions",
        )
    if file.data[place - 1 : place] == b"\n":  # the parser counts the line end to the directive
        place -= 2 if file.data[place - 2 : place] == b"\r\n" else 1
    end = edits.after_line(file.data, place)
    if end is None:
        raise Asked(
            f"where in {file.path} does the include go? Code or an open comment follows the last one on its line",
            "add an empty line there",
        )
    line_end = edits.newline(file.data, end)
    return Edit(end, end, "".join(line_end + line for line in lines))


def _top_level(root: Node) -> List[Node]:
    """What is in the file; in a header, what its include guard is around."""
    nodes = [node for node in root.named_children if node.type != "comment"]
    if len(nodes) == 1 and nodes[0].type == "preproc_ifdef" and nodes[0].children[0].type == "#ifndef":
        if nodes[0].child_by_field_name("alternative") is None:
            return list(nodes[0].named_children)
    return list(root.named_children)


def _in_special_block(file: CFile, at: int) -> bool:
    """In a block of a SWIG file that SWIG wraps, or that does not come before all code."""
    if not file.path.lower().endswith(SWIG_SUFFIXES):
        return False
    opening = file.data.rfind(b"%{", 0, at)
    return file.data[edits.line_start(file.data, opening) : opening].strip() not in (b"", b"%header")


def _set_up(module: Module, native: bool) -> Optional[Edit]:
    """The calls in the init function; None if nothing is to be done there."""
    entry, view = module.entry, module.variable if module.files and not module.exists else None
    body = entry.function.text if entry.function is not None else entry.item.data
    header = not native and not module.exists and (module.files or b"Pep788_Init" not in body)
    if view is None and not header:
        return None
    if entry.function is None:
        return _swig_set_up(module, view, native)
    data, function = entry.item.data, entry.function
    at, is_declaration = _before_first_action(function)
    end = edits.after_line(data, at)
    lines = _calls(view, [f"return {entry.returns};"], native)
    line_end = edits.newline(data, at)
    indent = _indent(data, function)
    level = edits.unit(indent, edits.indentation(data, function.body.end_byte - 1))
    text = edits.indented([*([""] if is_declaration else []), *lines], indent, level)
    if end is None:
        return Edit(at, at, " " + " ".join(line.strip() for line in lines))
    return Edit(end, end, "".join(line_end + line for line in text))


def _calls(view: Optional[str], leave: List[str], native: bool) -> List[str]:
    failed = ["\t" + line for line in leave]
    lines = [] if native else ["if (Pep788_Init() < 0) {", *failed, "}"]
    if view is not None:
        made = f"if ({view} == NULL && ({view} = PyInterpreterView_FromMain()) == NULL) {{"
        lines += [made, "\tPyErr_NoMemory();", *failed, "}"]
    return lines


def _before_first_action(function: Function) -> Tuple[int, bool]:
    """Behind the declarations that call nothing; a return there loses nothing."""
    at, found = int(function.body.start_byte) + 1, False
    for node in function.body.named_children:
        if node.type == "declaration" and not any(n.type == "call_expression" for n in walk(node)):
            at, found = int(node.end_byte), True
        elif node.type != "comment":
            break
    return at, found


def _indent(data: bytes, function: Function) -> str:
    for node in function.body.named_children:
        start = edits.line_start(data, node.start_byte)
        if not data[start : node.start_byte].strip() and not node.type.startswith("preproc_"):
            return edits.indentation(data, node.start_byte)
    return edits.indentation(data, function.body.end_byte - 1) + "    "


def _swig_set_up(module: Module, view: Optional[str], native: bool) -> Edit:
    """An %init block behind the last block of code; what SWIG puts around it changed its type in 4.4."""
    data = module.entry.item.data
    last = max(found.end() for found in swig._CODE.finditer(data))
    end = edits.after_line(data, last)
    at = end if end is not None else last
    line_end = edits.newline(data, at)
    failed = ["#if defined(SWIG_VERSION) && SWIG_VERSION >= 0x040400", "return -1;", "#else", "return NULL;", "#endif"]
    lines = edits.indented(_calls(view, failed, native), "    ", "    ")
    lines = [line.strip() if line.strip().startswith("#") else line for line in lines]
    return Edit(at, at, "".join(line_end + line for line in ["", "%init %{", *lines, "%}"]))
