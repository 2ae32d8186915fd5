"""Cython files, read with Cython's own parser: where the GIL is taken, and in what function.

The parser gives the place where a thing begins, not where it ends: spans cover the words that matter on that line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import threading
from typing import Any, List, Tuple

from . import names
from .ctree import _line_starts, span_of
from .model import Span


@dataclasses.dataclass(frozen=True)
class GilBlock:
    """A `with gil:` block."""

    span: Span
    function: str
    attaches: bool
    """The function is entered without a thread state, and no Ensure of PEP 788 stands before the block."""


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


@dataclasses.dataclass
class CythonFile:
    """What was found in a file."""

    path: str
    data: bytes
    lines: List[int]
    blocks: List[GilBlock] = dataclasses.field(default_factory=list)
    functions: List[GilFunction] = dataclasses.field(default_factory=list)
    ensures: List[StateVariable] = dataclasses.field(default_factory=list)

    def span(self, line: int, column: int, length: int) -> Span:
        start = self.lines[line - 1] + len(self.line(line)[:column].encode("utf-8"))
        return span_of(self.path, self.data, self.lines, start, min(start + length, len(self.data)))

    def line(self, number: int) -> str:
        end = self.lines[number] if number < len(self.lines) else len(self.data)
        return self.data[self.lines[number - 1] : end].decode("utf-8", "replace")


class CannotParse(Exception):
    """Cython's parser refuses the file; the message is its own."""


STACK = 256 * 1024 * 1024
MOST_BYTES = 1024 * 1024
MOST_NESTING = 1000
_OPERATORS = re.compile(r"(?:[*&~+-]\s*){1000}")


def parse(path: str, data: bytes) -> CythonFile:
    """Parse one .pyx, .pxd, .pxi or pure-Python-mode file.

    Cython's parser is compiled and recurses without a limit: what is nested too deeply would crash it, so that is
    refused here, and what is left gets a stack that is large enough for it.
    """
    text = data.decode("utf-8", "strict").replace("\r\n", "\n")  # no line or column of a word changes
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
    file = CythonFile(path, data, _line_starts(data))
    _visit(tree, file)
    return file


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


@dataclasses.dataclass(frozen=True)
class _Where:
    function: str = ""
    nogil: bool = False
    ensures: List[int] = dataclasses.field(default_factory=list)
    """The lines of its calls of PyThreadState_Ensure and relatives seen so far."""


def _visit(tree: Any, file: CythonFile) -> None:
    stack: List[Tuple[Any, _Where]] = [(tree, _Where())]
    while stack:
        node, where = stack.pop()
        where = _enter(node, where, file)
        for name in reversed(node.child_attrs or ()):
            child = getattr(node, name, None)
            children = child if isinstance(child, list) else [child]
            stack.extend((one, where) for one in reversed(children) if hasattr(one, "child_attrs"))


def _enter(node: Any, where: _Where, file: CythonFile) -> _Where:
    kind = type(node).__name__
    if kind == "CFuncDefNode":
        return _c_function(node, file)
    if kind in ("DefNode", "FuncDefNode", "GeneratorDefNode"):
        return _Where(str(getattr(node, "name", "")), _has_directive(node, ("nogil", "with_gil")))
    if kind == "LambdaNode":
        return _Where(where.function)
    if kind == "GILStatNode" and node.state == "gil":
        _block(node, where, file)
    if kind == "WithStatNode" and _is_cython_gil(node.manager):
        _block(node, where, file)
    if kind == "SimpleCallNode" and _called(node) in names.TOKEN_OPEN:
        where.ensures.append(node.pos[1])
    if kind in ("SingleAssignmentNode", "CVarDefNode"):
        _assignment(node, where, file)
    return where


def _c_function(node: Any, file: CythonFile) -> _Where:
    declarator = node.declarator
    while not hasattr(declarator, "with_gil") and hasattr(declarator, "base"):
        declarator = declarator.base
    name = str(getattr(getattr(declarator, "base", None), "name", "") or "?")
    if getattr(declarator, "with_gil", False):
        raises = bool(getattr(declarator, "exception_check", False)) or declarator.exception_value is not None
        returns = str(getattr(node.base_type, "name", "") or "?") + ("*" if declarator is not node.declarator else "")
        file.functions.append(GilFunction(_words(node.pos, file, "with gil"), name, returns, raises))
    nogil = bool(getattr(declarator, "nogil", False)) and not getattr(declarator, "with_gil", False)
    return _Where(name, nogil)


def _is_cython_gil(manager: Any) -> bool:
    """`with cython.gil:` of pure-Python mode."""
    name = getattr(getattr(manager, "obj", None), "name", "")
    return str(getattr(manager, "attribute", "")) == "gil" and str(name) == "cython"


def _has_directive(node: Any, wanted: Tuple[str, ...]) -> bool:
    """`@cython.nogil` and `@cython.with_gil` of pure-Python mode."""
    for decorator in getattr(node, "decorators", None) or ():
        name = str(getattr(decorator.decorator, "attribute", ""))
        if name in wanted:
            return True
    return False


def _block(node: Any, where: _Where, file: CythonFile) -> None:
    file.blocks.append(GilBlock(_words(node.pos, file, "with gil"), where.function, where.nogil and not where.ensures))


def _assignment(node: Any, where: _Where, file: CythonFile) -> None:
    if type(node).__name__ == "CVarDefNode":
        for declarator in node.declarators:
            if _is_ensure(getattr(declarator, "default", None)):
                type_name = str(getattr(node.base_type, "name", "") or "?")
                span = _words(declarator.default.pos, file, "PyGILState_Ensure")
                file.ensures.append(StateVariable(span, where.function, _declared_name(declarator), type_name))
    elif _is_ensure(node.rhs):
        variable = str(getattr(node.lhs, "name", "") or getattr(node.lhs, "attribute", "") or "?")
        span = _words(node.rhs.pos, file, "PyGILState_Ensure")
        file.ensures.append(StateVariable(span, where.function, variable, ""))


def _declared_name(declarator: Any) -> str:
    return str(getattr(declarator, "name", "") or "?")


def _is_ensure(node: Any) -> bool:
    return _called(node) == names.ENSURE


def _called(node: Any) -> str:
    function = getattr(node, "function", None)
    return str(getattr(function, "name", "") or getattr(function, "attribute", ""))


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
