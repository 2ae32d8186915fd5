"""Cython functions as C++ that takes the same paths, so that one analysis of paths does for both.

Only what matters to it is kept: calls by their names, variables, tests, jumps, and where the GIL is held. Each call and
each way out keeps its place in the Cython file; nothing of this text is ever shown.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from . import names
from .ctree import START_ROUTINES, CFile, Node, TooDeep, kind_of
from .model import Span

Place = Tuple[int, int, str]
"""A line, a column at or in front of a word, and the word; "" is all that stands on the line."""
Spans = Callable[[int, int, str], Span]

MOST_BYTES = 1024 * 1024
"""Of one function: what a `finally:` does is written once for each way out."""
TAKES = {names.ENSURE: "PyGILState_STATE ", **dict.fromkeys(names.TOKEN_OPEN, "PyThreadStateToken *")}
TAKES.update(dict.fromkeys(names.GUARD_OPEN, "PyInterpreterGuard *"))
_RESERVED = frozenset(
    "alignas alignof and asm auto case catch char class const constexpr co_await co_return co_yield decltype default "
    "delete do double dynamic_cast enum explicit export extern float friend goto inline int long mutable namespace new "
    "noexcept not nullptr operator or private protected public register reinterpret_cast requires short signed sizeof "
    "static struct switch template this throw try typedef typeid typename union unsigned using virtual void volatile "
    "NULL true false bool wchar_t char8_t char16_t char32_t size_t ssize_t ptrdiff_t charptr_t nullptr_t max_align_t "
    "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t".split()
)
"""Of C++, and names that tree-sitter takes for types wherever they stand."""
_BUILTIN = frozenset("void char short int long float double".split())
_COMPARISONS = {"is": "==", "is_not": "!=", "<>": "!=", **{same: same for same in ("==", "!=", "<", ">", "<=", ">=")}}
_WITHOUT_EFFECT = frozenset(
    "PassStatNode GlobalNode NonlocalNode CDeclareStatNode FromCImportStatNode CImportStatNode FromImportStatNode "
    "CDefExternNode CStructOrUnionDefNode CEnumDefNode CTypeDefNode CppClassNode FusedTypeNode DefNode CFuncDefNode "
    "PyClassDefNode CClassDefNode".split()
)
_OWN_SCOPE = ("DefNode", "CFuncDefNode", "PyClassDefNode", "CClassDefNode", "LambdaNode")
_THREADS = {"thread": "std::thread", "jthread": "std::jthread", "future": "std::future"}


class _Lost(Exception):
    """A statement that is not known, or too much of it."""


@dataclasses.dataclass(frozen=True)
class Body:
    """A function: its node, and what its head says."""

    node: Any
    name: str
    attached: bool
    """Its caller holds the GIL, or Cython takes it before the first line."""
    takes_gil: bool
    parameters: Dict[str, str]
    """The types by the names."""


class CythonPaths(CFile):
    """The C++ text of one file; its spans are those of the Cython file."""

    cython = True
    editable = False

    def __init__(self, path: str, text: bytes, marks: List[Tuple[int, Place]], spans: Spans) -> None:
        super().__init__(path, text, text, "cpp")
        self._starts = [start for start, _ in marks]
        self._places = [place for _, place in marks]
        self._spans = spans

    def span(self, node: Node) -> Span:
        """Of the last place that was noted at or before the node."""
        return self._spans(*self._places[max(0, bisect.bisect_right(self._starts, node.start_byte) - 1)])


def translate(
    path: str, bodies: List[Body], declared: "Declared", called: Callable[[Any], str], spans: Spans
) -> Tuple[Optional[CythonPaths], List[Body]]:
    """The text of what could be followed, None if there is none of it, and the functions that could not."""
    text = bytearray(declared.text().encode())
    marks: List[Tuple[int, Place]] = [(0, (1, 0, ""))]
    entries: Dict[int, bool] = {}
    lost = []
    for body in bodies:
        writer = _Writer(declared, called, len(text))
        try:
            writer.function(body)
        except Exception:  # of the tree, which differs between versions of Cython, or _Lost
            lost.append(body)
            continue
        entries[len(text)] = body.attached
        text += writer.out
        marks += writer.marks
    if not entries:
        return None, lost
    try:
        file = CythonPaths(path, bytes(text), marks, spans)
    except TooDeep:
        return None, bodies
    file.entries = entries
    return file, lost


def _word(name: str) -> str:
    """A name that C++ takes for one."""
    plain = re.sub(r"\W", "_", name) or "_"
    return plain + "_" if plain in _RESERVED else plain


def _kind(node: Any) -> str:
    return type(node).__name__


def children(node: Any, attributes: Optional[Sequence[str]] = None) -> Iterator[Any]:
    """The nodes right below: all, or those of some attributes."""
    for name in node.child_attrs or () if attributes is None else attributes:
        child = getattr(node, name, None)
        yield from (one for one in (child if isinstance(child, list) else [child]) if hasattr(one, "child_attrs"))


def _in_function(node: Any) -> Iterator[Any]:
    """The nodes of a function, not those of functions inside it."""
    stack = list(children(node))
    while stack:
        current = stack.pop()
        yield current
        if _kind(current) not in _OWN_SCOPE:
            stack.extend(children(current))


@dataclasses.dataclass
class Declared:
    """What a file declares outside of functions: variables and members of cdef classes with the names of their types,
    which end with a star for pointers, and the names that are C++ classes."""

    variables: List[Tuple[str, str]] = dataclasses.field(default_factory=list)
    members: List[Tuple[str, str]] = dataclasses.field(default_factory=list)
    classes: Set[str] = dataclasses.field(default_factory=set)

    def type_text(self, name: str) -> str:
        """As a declaration in C++ begins."""
        base = name.rstrip("*")
        plain = self.thread_class(base) or (base if base in _BUILTIN else _word(base))
        return plain + (" *" if base != name else " ")

    def thread_class(self, name: str) -> str:
        return _THREADS.get(name, "") if name in self.classes else ""

    def text(self) -> str:
        lines = [f"static {self.type_text(kind)}{_word(name)};\n" for name, kind in self.variables]
        lines += ["struct members_ {\n"]
        lines += [f"{self.type_text(kind)}{_word(name)};\n" for name, kind in self.members]
        return "".join([*lines, "};\n"])


def declarations(node: Any) -> Iterator[Tuple[str, str]]:
    """Names and types of what a `cdef` statement declares."""
    whole = node.base_type
    base = str(getattr(whole, "name", "") or getattr(getattr(whole, "base_type_node", None), "name", ""))
    for declarator in node.declarators:
        inner = name_declarator(declarator)
        name = str(getattr(inner, "name", "") or "")
        if name and not hasattr(declarator, "with_gil"):
            yield name, (base or "int") + ("" if inner is declarator else "*")


class _Writer:
    """Writes one function, behind `offset` bytes of others."""

    def __init__(self, declared: "Declared", called: Callable[[Any], str], offset: int) -> None:
        self.declared = declared
        self.called = called
        self.offset = offset
        self.out = bytearray()
        self.marks: List[Tuple[int, Place]] = []
        self._finally: List[Tuple[Any, int]] = []
        """The `finally:` clauses around the place, each with the number of loops around it."""
        self._loops = 0

    def write(self, text: str) -> None:
        self.out += text.encode()
        if len(self.out) > MOST_BYTES:
            raise _Lost

    def mark(self, node: Any, word: str = "") -> None:
        self.marks.append((self.offset + len(self.out), (int(node.pos[1]), int(node.pos[2]), word)))

    def function(self, body: Body) -> None:
        self.mark(body.node)
        listed = ", ".join(self.declared.type_text(kind) + _word(name) for name, kind in body.parameters.items())
        self.write(f"int {_word(body.name)}({listed}) {{\n")
        for name, kind in self._locals(body).items():
            self.write(f"{kind}{_word(name)};\n")
        if body.takes_gil:
            self.write("gil_scoped_acquire gil_;\n")
        self.statement(body.node.body)
        last = max(_in_function(body.node.body), key=lambda node: node.pos[1:] if node.pos else (0, 0), default=None)
        self.mark(last if last is not None and last.pos else body.node)  # no word says where it ends
        self.write("}\n")

    def _locals(self, body: Body) -> Dict[str, str]:
        """Variables that only an assignment declares, and that take something."""
        shared: Set[str] = set(body.parameters)
        found: Dict[str, str] = {}
        for node in _in_function(body.node):
            kind = _kind(node)
            if kind in ("GlobalNode", "NonlocalNode"):
                shared.update(map(str, node.names))
            elif kind == "CVarDefNode":
                shared.update(str(getattr(name_declarator(one), "name", "")) for one in node.declarators)
            elif kind == "SingleAssignmentNode" and _kind(node.lhs) == "NameNode":
                takes = TAKES.get(self.called(self._value(node.rhs)))
                if takes is not None:
                    found.setdefault(str(node.lhs.name), takes)
        return {name: kind for name, kind in found.items() if name not in shared}

    # --- statements

    def statement(self, node: Any) -> None:
        if node is None or _kind(node) in _WITHOUT_EFFECT:
            return
        method = getattr(self, "_do_" + _kind(node), None)
        if method is None:
            raise _Lost
        method(node)

    def _block(self, node: Any) -> None:
        self.write("{\n")
        self.statement(node)
        self.write("}\n")

    def _do_StatListNode(self, node: Any) -> None:
        for each in node.stats:
            self.statement(each)

    def _do_CVarDefNode(self, node: Any) -> None:
        inner = map(name_declarator, node.declarators)
        values = {str(getattr(one, "name", "")): getattr(one, "default", None) for one in inner}
        for name, kind in declarations(node):
            self.write(self.declared.type_text(kind) + _word(name))
            if values[name] is not None:
                self.write(" = ")
                self.expression(values[name])
            self.write(";\n")

    def _do_ExprStatNode(self, node: Any) -> None:
        self.expression(node.expr)
        self.write(";\n")

    def _do_SingleAssignmentNode(self, node: Any) -> None:
        self._assign([node.lhs], self._value(node.rhs))

    def _do_CascadedAssignmentNode(self, node: Any) -> None:
        self._assign(node.lhs_list, node.rhs)

    def _do_InPlaceAssignmentNode(self, node: Any) -> None:
        self.write("py_(")
        self.expression(node.lhs)
        self.write(", ")
        self.expression(node.rhs)
        self.write(");\n")

    def _assign(self, targets: List[Any], value: Any) -> None:
        for target in targets:
            plain = _kind(target) in ("NameNode", "AttributeNode", "IndexNode")
            if plain:
                self.expression(target)
                self.write(" = ")
            else:
                self._generic(target)
                self.write("; ")
        self.expression(value)
        self.write(";\n")

    def _value(self, node: Any) -> Any:
        """`cython.declare(T, value)` is its value."""
        if self.called(node) == "declare" and len(node.args or ()) == 2:
            return node.args[1]
        return node

    def _do_ReturnStatNode(self, node: Any) -> None:
        if self._finally:
            if node.value is not None:
                self._generic(node.value)
                self.write(";\n")
            self._leave(0)
            self.mark(node, "return")
            self.write("return;\n")
            return
        self.mark(node, "return")
        self.write("return ")
        if node.value is not None:
            self.expression(node.value)
        self.write(";\n")

    def _leave(self, loops: int) -> None:
        """Write the `finally:` clauses inside that many loops, which the way out passes, from the inside out."""
        waiting = self._finally
        for at in range(len(waiting) - 1, -1, -1):
            clause, depth = waiting[at]
            if depth < loops:
                break
            self._finally = waiting[:at]
            self.statement(clause)
        self._finally = waiting

    def _do_RaiseStatNode(self, node: Any) -> None:
        for each in children(node):
            self._generic(each)
            self.write(";\n")
        self.mark(node, "raise")
        self.write("throw;\n")

    _do_ReraiseStatNode = _do_RaiseStatNode

    def _do_IfStatNode(self, node: Any) -> None:
        for number, clause in enumerate(node.if_clauses):
            self.write("else if (" if number else "if (")
            self.expression(clause.condition)
            self.write(") ")
            self._block(clause.body)
        if node.else_clause is not None:
            self.write("else ")
            self._block(node.else_clause)

    def _do_WhileStatNode(self, node: Any) -> None:
        self.write("while (")
        self.expression(node.condition)
        self._loop(node)

    def _do_ForInStatNode(self, node: Any) -> None:
        self.write("while (py_(")
        self.expression(node.iterator)
        self.write(", ")
        self.expression(node.target)
        self.write(")")
        self._loop(node)

    def _do_ForFromStatNode(self, node: Any) -> None:
        self.write("while (")
        self._generic(node, ("target", "bound1", "bound2", "step"))
        self._loop(node)

    def _do_ParallelRangeNode(self, node: Any) -> None:
        self.write("while (")
        self._generic(node, ("target", "args"))
        self._loop(node)

    _do_AsyncForStatNode = _do_ForInStatNode

    def _loop(self, node: Any) -> None:
        self.write(") ")
        self._loops += 1
        self._block(node.body)
        self._loops -= 1
        if getattr(node, "else_clause", None) is not None:
            self.write("if (py_()) ")
            self._block(node.else_clause)

    def _do_BreakStatNode(self, node: Any) -> None:
        self._leave(self._loops)
        self.write("break;\n")

    def _do_ContinueStatNode(self, node: Any) -> None:
        self._leave(self._loops)
        self.write("continue;\n")

    def _do_TryExceptStatNode(self, node: Any) -> None:
        self.write("try {\n")
        self.statement(node.body)
        self.statement(node.else_clause)
        self.write("}\n")
        for clause in node.except_clauses:
            self.write("catch (...) ")
            self._block(clause.body)

    def _do_TryFinallyStatNode(self, node: Any) -> None:
        """Only a `raise` in it is taken for an exception, as a `throw` is in C++."""
        raised = [one for one in _in_function(node.body) if _kind(one) in ("RaiseStatNode", "ReraiseStatNode")]
        self.write("try {\n" if raised else "{\n")
        self._finally.append((node.finally_clause, self._loops))
        self.statement(node.body)
        self._finally.pop()
        self.write("}\n")
        if raised:
            self.write("catch (...) {\n")
            self.statement(node.finally_clause)
            self.mark(raised[-1], "raise")
            self.write("throw;\n}\n")
        self.statement(node.finally_clause)

    def _do_GILStatNode(self, node: Any) -> None:
        self._gil(node, node.state == "gil")

    def _do_WithStatNode(self, node: Any) -> None:
        gil = cython_gil(node.manager)
        if gil:
            self._gil(node, gil == "gil")
            return
        self._generic(node.manager)
        self.write(";\n")
        self._block(node.body)

    def _gil(self, node: Any, takes: bool) -> None:
        self.write(f"{{\ngil_scoped_{'acquire' if takes else 'release'} gil_;\n")
        self.statement(node.body)
        self.write("}\n")

    def _do_ParallelWithBlockNode(self, node: Any) -> None:
        self._block(node.body)

    def _do_AssertStatNode(self, node: Any) -> None:
        self.write("assert(")
        self.expression(node.condition)
        self.write(");\n")

    def _do_DelStatNode(self, node: Any) -> None:
        self._generic(node)
        self.write(";\n")

    _do_PrintStatNode = _do_ExecStatNode = _do_DelStatNode

    def _do_MatchNode(self, node: Any) -> None:
        self._generic(node.subject)
        self.write(";\n")
        for number, case in enumerate(node.cases):
            self.write("else if (py_()) " if number else "if (py_()) ")
            self._block(case.body)

    # --- expressions

    def expression(self, node: Any) -> None:
        method = getattr(self, "_is_" + _kind(node), None)
        if method is None:
            self._generic(node)
        else:
            method(node)

    def _generic(self, node: Any, only: Optional[Tuple[str, ...]] = None) -> None:
        """All that is used in it, by nothing that is known."""
        self.write("py_(")
        if only is None and not node.child_attrs:
            self.expression_or_nothing(node)
        else:
            for number, child in enumerate(children(node, only)):
                self.write(", " if number else "")
                self.expression(child)
        self.write(")")

    def expression_or_nothing(self, node: Any) -> None:
        if _kind(node) == "NameNode":
            self._is_NameNode(node)

    def _is_NameNode(self, node: Any) -> None:
        self.write(_word(str(node.name)))

    def _is_AttributeNode(self, node: Any) -> None:
        if node.attribute == "NULL" and str(getattr(node.obj, "name", "")) == "cython":
            self.write("NULL")
            return
        self.expression(node.obj)
        self.write("." + _word(str(node.attribute)))

    def _is_IndexNode(self, node: Any) -> None:
        self.expression(node.base)
        self.write("[")
        self.expression(node.index)
        self.write("]")

    def _is_NullNode(self, node: Any) -> None:
        self.write("NULL")

    def _is_NoneNode(self, node: Any) -> None:
        self.write("Py_None")

    def _is_BoolNode(self, node: Any) -> None:
        self.write("true" if node.value else "false")

    def _is_IntNode(self, node: Any) -> None:
        self.write(str(node.value) if str(node.value) in ("0", "1") else "2")

    def _is_SimpleCallNode(self, node: Any) -> None:
        arguments = [one for one in node.args or () if hasattr(one, "child_attrs")]
        self._call(node, arguments)

    def _is_GeneralCallNode(self, node: Any) -> None:
        given = node.positional_args
        arguments = list(given.args) if _kind(given) == "TupleNode" else [given]
        named = getattr(node.keyword_args, "key_value_pairs", None)
        self._call(node, [*arguments, *(pair.value for pair in named or ())])

    def _call(self, node: Any, arguments: List[Any]) -> None:
        name = self.called(node)
        function = node.function
        if name in ("cast", "address") and _kind(function) == "AttributeNode" and len(arguments) > (name == "cast"):
            self.write("(" if name == "cast" else "&(")
            self.expression(arguments[name == "cast"])
            self.write(")")
            return
        self.mark(function, written(node))
        made = self.declared.thread_class(name or str(getattr(getattr(function, "cppclass", None), "name", "")))
        if made or (name and (_kind(function) == "NameNode" or known(name))):
            self.write(made or _word(name))
        else:
            self.expression(function)
        self.write("(")
        for number, argument in enumerate(arguments):
            self.write(", " if number else "")
            self.expression(argument)
        self.write(")")

    def _is_PrimaryCmpNode(self, node: Any) -> None:
        operator = _COMPARISONS.get(str(node.operator))
        if operator is None or getattr(node, "cascade", None) is not None:
            self._generic(node)
            return
        self._infix(node, operator)

    def _is_BoolBinopNode(self, node: Any) -> None:
        self._infix(node, "&&" if node.operator == "and" else "||")

    def _infix(self, node: Any, operator: str) -> None:
        self.write("(")
        self.expression(node.operand1)
        self.write(f" {operator} ")
        self.expression(node.operand2)
        self.write(")")

    def _is_NotNode(self, node: Any) -> None:
        self.write("!(")
        self.expression(node.operand)
        self.write(")")

    def _is_AmpersandNode(self, node: Any) -> None:
        self.write("&")
        self.expression(node.operand)

    def _is_TypecastNode(self, node: Any) -> None:
        self.write("(")
        self.expression(node.operand)
        self.write(")")

    def _is_AssignmentExpressionNode(self, node: Any) -> None:
        self.write("(")
        self.expression(node.assignment.lhs)
        self.write(" = ")
        self.expression(node.assignment.rhs)
        self.write(")")

    def _is_CondExprNode(self, node: Any) -> None:
        self.write("(")
        self.expression(node.test if hasattr(node, "test") else node.condition)
        self.write(" ? ")
        self.expression(node.true_val)
        self.write(" : ")
        self.expression(node.false_val)
        self.write(")")


def name_declarator(declarator: Any) -> Any:
    """Below the stars."""
    while not hasattr(declarator, "name") and hasattr(declarator, "base"):
        declarator = declarator.base
    return declarator


def cython_gil(manager: Any) -> str:
    """ "gil" or "nogil" of `with cython.gil:` and `with cython.nogil:` of pure-Python mode."""
    name = str(getattr(getattr(manager, "obj", None), "name", ""))
    attribute = str(getattr(manager, "attribute", ""))
    return attribute if name == "cython" and attribute in ("gil", "nogil") else ""


def written(call: Any) -> str:
    """The name of what is called, as it stands there."""
    function = getattr(call, "function", None)
    return str(getattr(function, "name", "") or getattr(function, "attribute", ""))


def known(name: str) -> bool:
    """A function of the C API or of a library that rules look for: the module it is taken from does not matter."""
    return kind_of(name) is not None or name in START_ROUTINES
