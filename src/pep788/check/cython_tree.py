"""Cython files, read with Cython's own parser: where the GIL is taken, and in what function.

The parser gives the place where a thing begins, not where it ends: spans cover the words that matter on that line.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import io
import re
import threading
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from . import names
from .ctree import _line_starts, kind_of, span_of
from .cython_paths import (
    Body,
    CythonPaths,
    Declared,
    children,
    cython_gil,
    declarations,
    name_declarator,
    translate,
    written,
)
from .model import Span


@dataclasses.dataclass(frozen=True)
class GilBlock:
    """A `with gil:` block."""

    span: Span
    function: str
    attaches: bool
    """The function is entered without a thread state, and nothing that attaches is before the block or around it."""
    whole: "Optional[Whole]" = None
    reason: str = ""
    """Why it is not the whole of its function."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Of a block that nothing is beside but declarations and a `return` of a variable or number: where it is."""

    line: int
    last: int
    """The last line on which something in it begins."""
    following: int
    """The line of the `return` behind it, or 0."""


@dataclasses.dataclass(frozen=True)
class GilFunction:
    """A `cdef ... with gil` function."""

    span: Span
    function: str
    returns: str
    raises: bool
    """It is declared `except`, so that its C caller is expected to look at the exception it leaves."""


@dataclasses.dataclass(frozen=True)
class StateVariable:
    """`x = PyGILState_Ensure()` with the C type that `x` was declared with, as far as it is declared."""

    span: Span
    function: str
    variable: str
    type_name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a function by its name, or of a method."""

    place: Tuple[int, int]
    function: str
    name: str
    """That of C, whatever it is imported as."""
    written: str
    attached: bool
    """It stands where Cython holds the GIL, or takes it to be held."""
    before_attach: str = ""
    """What attaches later in the same function, if that does."""
    dropped: bool = False
    """Nothing takes its result."""
    unread: str = ""
    """The variable that takes its result, if all that is done with it is to give it to PyThreadState_Release."""


@dataclasses.dataclass
class CythonFile:
    """What was found in a file."""

    path: str
    data: bytes
    lines: List[int]
    blocks: List[GilBlock] = dataclasses.field(default_factory=list)
    functions: List[GilFunction] = dataclasses.field(default_factory=list)
    declared: List[GilFunction] = dataclasses.field(default_factory=list)
    """Of a .pxd: functions whose bodies are elsewhere."""
    ensures: List[StateVariable] = dataclasses.field(default_factory=list)
    calls: List[Call] = dataclasses.field(default_factory=list)
    """All of them, a function after the other."""
    aliases: Dict[str, str] = dataclasses.field(default_factory=dict)
    """The names of C by what they are called here, where that is another one."""
    paths: Optional[CythonPaths] = None
    """Its functions, for the analysis of paths."""
    lost: List[Tuple[str, int]] = dataclasses.field(default_factory=list)
    """Functions whose paths cannot be followed, with their lines."""

    def called(self, node: Any) -> str:
        """The name of C of what a node calls, "" if it is no call."""
        name = written(node)
        return self.aliases.get(name, name)

    def span(self, line: int, column: int, length: int) -> Span:
        start = self.lines[line - 1] + len(self.line(line)[:column].encode("utf-8"))
        return span_of(self.path, self.data, self.lines, start, min(start + length, len(self.data)))

    def span_of_call(self, call: Call) -> Span:
        return _words(("", *call.place), self, call.written)

    def span_of_word(self, line: int, column: int, word: str) -> Span:
        """Of the word that is there, without one of all that stands on the line."""
        if word:
            return _words(("", line, column), self, word)
        text = self.line(line).split("#")[0].rstrip()
        start = len(text) - len(text.lstrip())
        return self.span(line, start, len(text[start:].encode()))

    def line(self, number: int) -> str:
        end = self.lines[number] if number < len(self.lines) else len(self.data)
        return self.data[self.lines[number - 1] : end].decode("utf-8", "replace")


class CannotParse(Exception):
    """Cython's parser refuses the file; the message is its own."""


GIL_BLOCK = "`with gil`"
STACK = 256 * 1024 * 1024
MOST_BYTES = 1024 * 1024
MOST_NESTING = 1000
_OPERATORS = re.compile(r"(?:[*&~+-]\s*){1000}")


def parse(path: str, data: bytes) -> CythonFile:
    """Parse one .pyx, .pxd, .pxi or pure-Python-mode file.

    Cython's parser is compiled and recurses without a limit: what is nested too deeply would crash it, so that is
    refused here, and what is left gets a stack that is large enough for it.
    """
    text = data.decode("utf-8-sig", "strict").replace("\r\n", "\n")  # no line or column of a word changes
    if len(data) > MOST_BYTES or _nesting(text) > MOST_NESTING or _OPERATORS.search(text):
        raise CannotParse("too large or nested too deeply")
    outcome: List[Any] = []

    def run() -> None:
        try:
            outcome.append(_parse(path, data, text))
        except BaseException as error:
            outcome.append(error)

    before = threading.stack_size(STACK)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    except RuntimeError as error:
        raise CannotParse(f"no memory for its stack: {error}") from None
    finally:
        threading.stack_size(before)
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    file: CythonFile = outcome[0]
    return file


def _nesting(text: str) -> int:
    """Open brackets, those in strings too, or columns of indentation, whichever is more."""
    depth = most = 0
    for found in re.finditer(r"[(\[{]|[)\]}]|^[ \t]+", text, re.MULTILINE):
        mark = found.group()
        if mark[0] in " \t":
            most = max(most, len(mark))
        else:
            depth = max(0, depth + (1 if mark in "([{" else -1))
            most = max(most, depth)
    return most


def _parse(path: str, data: bytes, text: str) -> CythonFile:
    from Cython.Compiler import Errors

    complaints = io.StringIO()
    Errors.init_thread()
    with contextlib.redirect_stderr(complaints), Errors.local_errors(ignore=True):
        try:
            tree = _tree(path, text, "3")
        except CannotParse:
            tree = _tree(path, text, "2")  # `print` statements
    lines = _line_starts(data)
    if data.startswith(codecs.BOM_UTF8):
        lines[0] = len(codecs.BOM_UTF8)
    file = CythonFile(path, data, lines)
    file.aliases = dict(_aliases(tree))
    bodies = _visit(tree, file)
    file.paths, lost = translate(path, bodies, _declared(tree), file.called, file.span_of_word)
    file.lost = [(body.name, _place(body.node)[0]) for body in lost]
    return file


def _below(node: Any) -> Iterator[Any]:
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(list(children(current))))


def _aliases(tree: Any) -> Iterator[Tuple[str, str]]:
    """`cimport f as g`, `cdef extern: int g "f"()`, and the imports from `cython.cimports` of pure-Python mode."""
    for node in _below(tree):
        kind = type(node).__name__
        if kind == "FromCImportStatNode":
            pairs = [(given[2], given[1]) for given in node.imported_names]
        elif kind == "CNameDeclaratorNode":
            pairs = [(node.name, getattr(node, "cname", None))]
        elif kind == "FromImportStatNode":
            pairs = [(getattr(target, "name", None), name) for name, target in node.items]
        else:
            continue
        for new, old in pairs:
            if new and old and new != old and kind_of(str(old)) is not None:
                yield str(new), str(old)


def _declared(tree: Any) -> Declared:
    found = Declared()
    stack = [getattr(tree, "body", tree)]  # a .pxd is its statements
    while stack:
        node = stack.pop()
        kind = type(node).__name__
        if kind == "StatListNode":
            stack.extend(node.stats)
        elif kind == "CVarDefNode":
            found.variables += declarations(node)
        elif kind == "CClassDefNode" and node.body is not None:
            fields = [one for one in getattr(node.body, "stats", [node.body]) if type(one).__name__ == "CVarDefNode"]
            found.members += [pair for field in fields for pair in declarations(field)]
        elif kind == "FromCImportStatNode" and str(node.module_name).startswith("libcpp"):
            found.classes.update(str(given[2] or given[1]) for given in node.imported_names)
        elif kind == "CDefExternNode":
            inside = getattr(node.body, "stats", [node.body])
            found.classes.update(str(one.name) for one in inside if type(one).__name__ == "CppClassNode")
    return found


def _tree(path: str, text: str, language_level: str) -> Any:
    from Cython.Compiler import Errors
    from Cython.Compiler.TreeFragment import StringParseContext, parse_from_strings

    context = StringParseContext("module", cpp=True)
    context.set_language_level(language_level)
    context.find_include_file = lambda *given, **named: None  # what is included is checked as a file of its own
    try:
        level = "module_pxd" if path.endswith(".pxd") else None
        return parse_from_strings("module", text, level=level, context=context)
    except Errors.CompileError as error:
        raise CannotParse(_first_line(error)) from None
    except Exception as error:  # its internal errors on odd input are of any class
        raise CannotParse(f"{type(error).__name__} in Cython's parser") from None


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "message_only", "") or error).strip()
    return text.splitlines()[-1] if text else "syntax error"


@dataclasses.dataclass
class _Body:
    """What one function does, by place: (line, column, what)."""

    name: str = ""
    calls: List[Tuple[Any, bool, bool]] = dataclasses.field(default_factory=list)
    attaches: List[Tuple[Tuple[int, int], str]] = dataclasses.field(default_factory=list)
    types: Dict[str, str] = dataclasses.field(default_factory=dict)
    takes: Dict[int, str] = dataclasses.field(default_factory=dict)
    """The variable that takes a call's result, by the identity of the call."""
    reads: Set[str] = dataclasses.field(default_factory=set)
    """The variables that are used for anything but to be released."""


@dataclasses.dataclass(frozen=True)
class _Where:
    body: _Body = dataclasses.field(default_factory=_Body)
    nogil: bool = False
    """The function is entered without a thread state."""
    attached: bool = True
    """The GIL is held here."""
    nested: bool = False
    """Inside a `with gil` block."""
    takes_gil: bool = False
    """The function takes it before its first line."""
    block: Any = None
    """The `with gil` block that is the whole of the function."""
    following: int = 0
    reason: str = "it is in a block of its function"

    @property
    def function(self) -> str:
        return self.body.name


def _visit(tree: Any, file: CythonFile) -> List[Body]:
    """Fill in the file; returns its functions."""
    module = _Where()
    bodies = [module.body]
    found: List[Body] = []
    stack: List[Tuple[Any, _Where]] = [(tree, module)]
    while stack:
        node, where = stack.pop()
        inner = _enter(node, where, file)
        if inner.body is not where.body:
            inner.body.types.update({k: v for k, v in module.body.types.items() if k not in inner.body.types})
            bodies.append(inner.body)
            if type(node).__name__ != "LambdaNode":
                found.append(Body(node, inner.function, not inner.nogil, inner.takes_gil, _parameters(node)))
        visited = [name for name in node.child_attrs or () if not _is_target(node, name)]
        stack.extend((one, inner) for one in reversed(list(children(node, visited))))
    for body in bodies:
        _finish(body, file)
    return found


def _parameters(node: Any) -> Dict[str, str]:
    declarator = _function_declarator(node.declarator) if hasattr(node, "declarator") else node
    found: Dict[str, str] = {}
    for argument in getattr(declarator, "args", None) or ():
        inner = name_declarator(argument.declarator)
        base, star = getattr(argument.base_type, "name", None), "" if inner is argument.declarator else "*"
        found[str(getattr(inner, "name", "") or "?")] = str(base) + star if base else "PyObject*"
    return found


def _is_target(node: Any, attribute: str) -> bool:
    """The name on the left of `=` is not read."""
    return attribute == "lhs" and type(getattr(node, "lhs", None)).__name__ == "NameNode"


def _enter(node: Any, where: _Where, file: CythonFile) -> _Where:
    kind = type(node).__name__
    if kind == "CFuncDefNode":
        return _c_function(node, file)
    if kind in ("DefNode", "FuncDefNode", "GeneratorDefNode"):
        return _python_function(node, file)
    if kind == "LambdaNode":
        return _Where(_Body(where.function))
    if kind == "GILStatNode":
        return _gil_statement(node, node.state == "gil", where, file)
    if kind == "WithStatNode" and cython_gil(node.manager):
        return _gil_statement(node, cython_gil(node.manager) == "gil", where, file)
    if kind == "SimpleCallNode":
        _call(node, where, file)
    if kind == "NameNode" and id(node) not in where.body.takes:
        where.body.reads.add(str(node.name))
    if kind == "ExprStatNode":
        where.body.takes[id(node.expr)] = ""
    if kind in ("SingleAssignmentNode", "CVarDefNode"):
        _assignment(node, where, file)
    return where


def _c_function(node: Any, file: CythonFile) -> _Where:
    declarator = _function_declarator(node.declarator)
    with_gil = _gil_function(node, node.declarator, file)
    if with_gil is not None:
        file.functions.append(with_gil)
    nogil = bool(getattr(declarator, "nogil", False)) and with_gil is None
    where = _Where(_Body(_function_name(declarator)), nogil, not nogil, takes_gil=with_gil is not None)
    return dataclasses.replace(where, **_whole_block(node.body))


_PLAIN = ("NameNode", "IntNode", "FloatNode", "BoolNode", "NullNode", "UnaryMinusNode")


def _whole_block(body: Any) -> Dict[str, Any]:
    """The block, if all that is beside it is the same with the GIL and without."""
    block, following = None, 0
    for node in getattr(body, "stats", [body]):
        kind, line = type(node).__name__, _place(node)[0]
        if kind == "GILStatNode" and node.state == "gil" and block is None:
            block = node
        elif kind == "ReturnStatNode" and block is not None:
            if node.value is not None and type(node.value).__name__ not in _PLAIN:
                return {"reason": f"line {line} is outside of it, and would run attached, too"}
            following = line
        elif kind == "CVarDefNode" and block is None:
            values = [getattr(name_declarator(declarator), "default", None) for declarator in node.declarators]
            if any(value is not None and type(value).__name__ not in _PLAIN for value in values):
                return {"reason": f"line {line} is outside of it, and would run attached, too"}
        elif kind != "GlobalNode":
            return {"reason": f"line {line} is outside of it, and would run attached, too"}
    return {"block": block, "following": following} if block is not None else {}


def _function_declarator(declarator: Any) -> Any:
    while not hasattr(declarator, "with_gil") and hasattr(declarator, "base"):
        declarator = declarator.base
    return declarator


def _function_name(declarator: Any) -> str:
    return str(getattr(getattr(declarator, "base", None), "name", "") or "?")


def _gil_function(node: Any, declarator: Any, file: CythonFile) -> Optional[GilFunction]:
    """If it is declared `with gil`; `node` is its definition, or the declaration that it is part of."""
    inner = _function_declarator(declarator)
    if not getattr(inner, "with_gil", False):
        return None
    raises = bool(getattr(inner, "exception_check", False)) or inner.exception_value is not None
    returns = str(getattr(node.base_type, "name", "") or "?") + ("*" if inner is not declarator else "")
    return GilFunction(_words(node.pos, file, "with gil"), _function_name(inner), returns, raises)


def _python_function(node: Any, file: CythonFile) -> _Where:
    """`def`, which may be a C function by its decorators in pure-Python mode."""
    name = str(getattr(node, "name", ""))
    with_gil = _decorator(node, "with_gil")
    if with_gil is not None:
        raises = _decorator(node, "exceptval") is not None
        file.functions.append(GilFunction(_words(with_gil.pos, file, "with_gil"), name, "?", raises))
        return _Where(_Body(name), takes_gil=True)
    nogil = _decorator(node, "nogil") is not None
    return _Where(_Body(name), nogil, not nogil)


def _decorator(node: Any, wanted: str) -> Any:
    """`@cython.nogil`, `@cython.with_gil` and `@cython.exceptval(...)` of pure-Python mode."""
    for decorator in getattr(node, "decorators", None) or ():
        used = decorator.decorator
        used = getattr(used, "function", used)
        if str(getattr(used, "attribute", "")) == wanted:
            return decorator
    return None


def _gil_statement(node: Any, takes: bool, where: _Where, file: CythonFile) -> _Where:
    if takes:
        ensured = any(name != GIL_BLOCK for _, name in where.body.attaches)
        span = _words(node.pos, file, "with gil")
        attaches = where.nogil and not where.nested and not ensured
        whole = Whole(_place(node)[0], _last_line(node), where.following) if where.block is node else None
        file.blocks.append(GilBlock(span, where.function, attaches, whole, "" if whole else where.reason))
        where.body.attaches.append((_place(node), GIL_BLOCK))
    return dataclasses.replace(where, attached=takes, nested=where.nested or takes)


def _last_line(node: Any) -> int:
    return max(int(one.pos[1]) for one in _below(node.body) if one.pos)


def _place(node: Any) -> Tuple[int, int]:
    return (int(node.pos[1]), int(node.pos[2]))


def _call(node: Any, where: _Where, file: CythonFile) -> None:
    name = file.called(node)
    where.body.calls.append((node, where.attached, where.body.takes.get(id(node)) == ""))
    if name in names.TOKEN_OPEN or name == names.ENSURE:
        where.body.attaches.append((_place(node), name))
    if name in names.TOKEN_CLOSE:  # a name that is only released is not one that was looked at
        for argument in node.args or ():
            if type(argument).__name__ == "NameNode":
                where.body.takes[id(argument)] = str(argument.name)


def _finish(body: _Body, file: CythonFile) -> None:
    for node, attached, dropped in body.calls:
        name = file.called(node)
        if not name:
            continue
        later = [what for place, what in body.attaches if place > _place(node)]
        taken = body.takes.get(id(node), "")
        unread = taken if taken and taken not in body.reads else ""
        before = later[0] if later else ""
        file.calls.append(Call(_place(node), body.name, name, written(node), attached, before, dropped, unread))


def _assignment(node: Any, where: _Where, file: CythonFile) -> None:
    body = where.body
    if type(node).__name__ == "CVarDefNode":
        type_name = str(getattr(node.base_type, "name", "") or "?")
        for declarator in node.declarators:
            inner = name_declarator(declarator)
            variable = str(getattr(inner, "name", "") or "?")
            body.types[variable] = type_name if inner is declarator else type_name + " *"
            with_gil = _gil_function(node, declarator, file)
            if with_gil is not None:
                file.declared.append(with_gil)
            value = getattr(inner, "default", None)
            if value is None:
                continue
            body.takes[id(value)] = variable
            if file.called(value) == names.ENSURE:
                span = _words(value.pos, file, written(value))
                file.ensures.append(StateVariable(span, body.name, variable, body.types[variable]))
        return
    variable = str(getattr(node.lhs, "name", "") or getattr(node.lhs, "attribute", "") or "?")
    value = node.rhs
    type_name = _last_name(getattr(getattr(node.lhs, "annotation", None), "expr", None))
    if file.called(value) == "declare" and len(getattr(value, "args", None) or ()) == 2:
        type_name, value = _last_name(value.args[0]), value.args[1]
    if type_name:
        body.types[variable] = type_name
    if type(node.lhs).__name__ == "NameNode":
        body.takes[id(value)] = variable
    if file.called(value) == names.ENSURE:
        span = _words(value.pos, file, written(value))
        file.ensures.append(StateVariable(span, body.name, variable, body.types.get(variable, "")))


def _last_name(node: Any) -> str:
    """`int` of `cython.int`, by which pure-Python mode declares."""
    return str(getattr(node, "attribute", "") or getattr(node, "name", "") or "")


def _words(position: Any, file: CythonFile, words: str) -> Span:
    """These words at or soon behind a position; a function's header may be several lines long."""
    _, line, column = position
    pattern = re.compile(r"\s+".join(map(re.escape, words.split())).replace("gil", r"(?:\w+\.)?gil"))
    for number in range(line, min(line + 40, len(file.lines) + 1)):
        text = file.line(number)
        found = pattern.search(text, column) if number == line else None  # `with` may be behind the position, or before
        found = found or pattern.search(text)
        if found:
            return file.span(number, found.start(), len(found.group().encode()))
    return file.span(min(line, len(file.lines)), min(column, len(file.line(min(line, len(file.lines))))), 1)
