"""The life of a struct: where it is defined, made and freed, and the edits that put a view into it.

Only if all of it can be seen: one definition, one allocation by a thread that is attached, with its test for NULL, each
place that frees it, and no other way to come by one.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Dict, FrozenSet, Iterator, List, Optional, Tuple

from ..check import ctree
from ..check.ctree import CFile, Function, Kind, Node, arguments, declared, strip_casts, walk
from ..check.model import Edit
from ..check.project import Project
from . import edits
from .pair import statement_of

CURRENT, CLOSE = "PyInterpreterView_FromCurrent", "PyInterpreterView_Close"
_MEMORY = {
    "malloc": "free({0})",
    "calloc": "free({0})",
    "PyMem_Malloc": "PyMem_Free({0})",
    "PyMem_Calloc": "PyMem_Free({0})",
    "PyMem_New": "PyMem_Free({0})",
    "PyMem_RawMalloc": "PyMem_RawFree({0})",
    "PyMem_RawCalloc": "PyMem_RawFree({0})",
    "PyObject_Malloc": "PyObject_Free({0})",
    "PyObject_Calloc": "PyObject_Free({0})",
}
_OBJECTS = {
    "PyObject_New": "PyObject_Free({0})",
    "PyObject_NEW": "PyObject_Free({0})",
    "PyObject_GC_New": "PyObject_GC_Del({0})",
    "tp_alloc": "Py_TYPE({0})->tp_free((PyObject *){0})",
}
"""What gives memory, and what takes it back when nothing else has happened to it."""
_OTHER_OBJECTS = ("PyType_GenericAlloc", "PyType_GenericNew", "PyObject_NewVar", "PyObject_GC_NewVar", "tp_new")
_DETACHED = ("malloc", "calloc", "PyMem_RawMalloc", "PyMem_RawCalloc")
"""They work without an attached thread state."""
_FREES = re.compile(r"(?:.*free|PyObject_Del|PyObject_GC_Del|PyMem_Del|PyObject_DEL|PyMem_DEL)", re.I | re.S)
_NULLS = ("NULL", "nullptr", "0")
_CHOOSES = (
    "if_statement", "while_statement", "do_statement", "for_statement", "for_range_loop", "switch_statement",
    "else_clause", "case_statement", "catch_clause", "conditional_expression", "lambda_expression", "sizeof_expression",
)  # fmt: skip
NAMES = ("view", "pep788_view")


class NoHolder(Exception):
    """The struct is not used; the message says why, "" if there is none."""


@dataclasses.dataclass
class Store:
    """A struct with a view in it, and what makes it so."""

    name: str
    member: str
    changes: Dict[str, List[Edit]]
    """By path; empty if its author has put the view there already."""
    files: Dict[str, CFile]
    """Those with changes."""
    struct: Tuple[str, int]
    """The path and the byte of its definition: the header has to be included in front of it."""
    place: Tuple[str, int, str]
    """The path, the line and the function where the view is made."""
    closed_in: Tuple[str, ...]

    @property
    def how(self) -> str:
        if not self.changes:
            return "a member that is there already"
        closed = ", ".join(self.closed_in)
        return f"to be made in {self.place[2]}, of the interpreter that is current there, and closed in {closed}"


@dataclasses.dataclass(frozen=True)
class _Made:
    """An allocation: `maker` gives the memory, `variable` points to it."""

    function: Function
    call: Node
    maker: str
    variable: str


class Life:
    """Where a struct is defined, made and freed."""

    def __init__(self, name: str, mentioning: Callable[[FrozenSet[str]], List[CFile]], whole: Project) -> None:
        self.name = name
        self.whole = whole
        self.names = frozenset({name})
        self.files = mentioning(frozenset({name.split()[-1]}))
        self._find_definition()
        self.files = mentioning(frozenset(word.split()[-1] for word in self.names))
        self._sizes: List[Tuple[CFile, Node]] = []

    # --- the definition

    def _find_definition(self) -> None:
        found: List[Tuple[CFile, Node]] = []
        for _ in range(2):  # an alias may be defined behind its struct
            found = []
            for file in self.files:
                for node in walk(file.root, into=ctree.CONTAINERS):
                    if node.type == "struct_specifier":
                        names, pointers = self._names_of(file, node)
                        if not self.names.isdisjoint(names):
                            if pointers:
                                raise NoHolder(f"{pointers[0]} is a pointer to it by another name")
                            self.names |= names
                            if node.child_by_field_name("body") is not None:
                                found.append((file, node))
        if len(found) != 1:
            raise NoHolder("it is defined more than once" if found else "")
        self.file, self.node = found[0]
        self.fields = self.node.child_by_field_name("body")
        if b"PyObject" not in self.fields.text:
            raise NoHolder("")
        self.is_object = re.search(rb"\bPyObject(?:_VAR)?_HEAD\b", self.fields.text) is not None

    def _names_of(self, file: CFile, node: Node) -> Tuple[FrozenSet[str], List[str]]:
        tag, names, pointers = node.child_by_field_name("name"), set(), []
        if tag is not None:
            names.add("struct " + file.text(tag))
            if file.language == "cpp":
                names.add(file.text(tag))
        if node.parent is not None and node.parent.type == "type_definition":
            for declarator in node.parent.children_by_field_name("declarator"):
                if declarator.type == "type_identifier":
                    names.add(file.text(declarator))
                else:
                    pointers.append(" ".join(file.text(declarator).split()))
        return frozenset(names), pointers

    def _member_there(self) -> str:
        for field in self.fields.named_children:
            if field.type == "field_declaration":
                for name, type_text in declared(self.file, field):
                    if "".join(type_text.split()) == "PyInterpreterView*":
                        return name
        return ""

    # --- all of it

    def store(self) -> Store:
        line = self.file.span(self.node).line
        struct = (self.file.path, int(self.node.start_byte))
        there = self._member_there()
        if there:
            return Store(self.name, there, {}, {}, struct, (self.file.path, line, ""), ())
        self.member = self._free_name()
        self._refuse_other_uses()
        made = self._made()
        self._refuse_type_object(made)
        frees = list(self._frees())
        if not frees:
            raise NoHolder("no place was found where it is freed")
        changes: Dict[str, List[Edit]] = {}
        changes.setdefault(self.file.path, []).append(self._field())
        changes.setdefault(made.function.file.path, []).append(self._make(made))
        for function, statement, argument in frees:
            changes.setdefault(function.file.path, []).append(self._close(function, statement, argument))
        files = {file.path: file for file in self.files if file.path in changes}
        place = (made.function.file.path, made.function.file.span(made.call).line, made.function.name)
        closed = tuple(dict.fromkeys(function.name for function, _, _ in frees))
        return Store(self.name, self.member, changes, files, struct, place, closed)

    def _free_name(self) -> str:
        taken = {self.file.text(node) for node in walk(self.fields) if node.type == "field_identifier"}
        for name in NAMES:
            is_macro = re.compile(rb"#[ \t]*define[ \t]+%b\b" % name.encode())
            if name not in taken and not any(is_macro.search(file.data) for file in self.files):
                return name
        raise NoHolder("its members have the names that a view would get")

    def _field(self) -> Edit:
        children = self.fields.named_children
        fields = [node for node in children if node.type == "field_declaration"]
        if not fields or any(node.type not in ("field_declaration", "comment") and node.is_named and not
                             node.type.startswith("preproc_") for node in children):  # fmt: skip
            raise NoHolder("its definition is more than members")
        last = fields[-1]
        if any(node.start_byte > last.start_byte and node.type != "comment" for node in children):
            raise NoHolder("its last member depends on conditional compilation")
        declarator = last.child_by_field_name("declarator")
        if declarator is not None and declarator.type == "array_declarator":
            size = declarator.child_by_field_name("size")
            if size is None or self.file.text(size) in ("0", "1"):
                raise NoHolder("its last member is an array of any length")
        end = edits.after_line(self.file.data, last.end_byte)
        if end is None:
            raise NoHolder("its definition has several members on a line")
        data = self.file.data
        indent = edits.indentation(data, last.start_byte)
        return Edit(end, end, f"{edits.newline(data, end)}{indent}PyInterpreterView *{self.member};")

    # --- what else is done with it

    def _refuse_other_uses(self) -> None:
        """By value, under a macro, by its size: all that could make or copy one."""
        for file in self.files:
            if file.root.has_error and any(self._is_named(file, n) for n in _lost(file.root)):
                raise NoHolder(f"{file.path} does not parse around it")
            for node in walk(file.root):
                if node.type in ("type_identifier", "struct_specifier", "identifier") and self._is_name(file, node):
                    self._refuse_use(file, node)
                elif node.type in ("preproc_arg",):
                    self._refuse_macro(file, node)
            for function in file.functions:
                self._refuse_copies(function)

    def _is_name(self, file: CFile, node: Node) -> bool:
        text = " ".join(file.text(node).split())
        if node.type == "struct_specifier":
            return node != self.node and node.child_by_field_name("body") is None and text in self.names
        if node.parent is not None and node.parent.type == "struct_specifier":
            return False
        return text in self.names

    def _is_named(self, file: CFile, node: Node) -> bool:
        return any(re.search(rb"\b%b\b" % name.split()[-1].encode(), node.text) for name in self.names)

    def _refuse_use(self, file: CFile, node: Node) -> None:
        parent = node.parent
        line = file.span(node).line
        if parent.type == "type_definition":
            is_renamed = node.type == "type_identifier" and node == parent.child_by_field_name("type")
            if not is_renamed:
                return
            raise NoHolder(f"it has another name ({file.path}:{line})")
        if parent.type in ("declaration", "parameter_declaration", "field_declaration", "function_definition"):
            declarators = parent.children_by_field_name("declarator")
            is_forward = not declarators and parent.type == "declaration"
            if is_forward or (declarators and all(map(_is_pointer, declarators))):
                return
            raise NoHolder(f"{file.path}:{line} has one by value")
        if parent.type == "type_descriptor":
            inner = parent.child_by_field_name("declarator")
            if inner is not None and inner.type == "abstract_pointer_declarator":
                return
            if parent.parent.type == "offsetof_expression":
                return
            if parent.parent.type == "sizeof_expression":
                self._sizes.append((file, parent.parent))
                return
        if parent.type == "parenthesized_expression" and parent.parent.type == "sizeof_expression":
            self._sizes.append((file, parent.parent))
            return
        if parent.type == "argument_list" and parent.parent.type == "call_expression":
            called = _called(file, parent.parent)
            if arguments(parent.parent)[0] == node and (called in _OBJECTS or called in ("PyMem_New", "offsetof")):
                return
        raise NoHolder(f"it is used in a way that is not understood ({file.path}:{line})")

    def _refuse_macro(self, file: CFile, node: Node) -> None:
        """Casts to a pointer to it are fine."""
        text = file.text(node)
        for name in self.names:
            pattern = r"\s+".join(map(re.escape, name.split()))
            text = re.sub(rf"\(\s*{pattern}\s*\*\s*\)", "", text)
        if any(re.search(rf"\b{re.escape(name.split()[-1])}\b", text) for name in self.names):
            raise NoHolder(f"it is in a macro ({file.path}:{file.span(node).line})")

    def _refuse_copies(self, function: Function) -> None:
        """`*pointer` as a whole and `pointer[0]`; of the sizes only those are noted."""
        for node in walk(function.body):
            if node.type == "pointer_expression" and node.children[0].type == "*":
                if self._points_here(function, node.child_by_field_name("argument")):
                    top = node.parent
                    while top.type == "parenthesized_expression":
                        top = top.parent
                    if top.type == "sizeof_expression":
                        self._sizes.append((function.file, top))
                    elif top.type != "field_expression":
                        line = function.file.span(node).line
                        raise NoHolder(f"it is copied, or its size is used ({function.file.path}:{line})")
            elif node.type == "subscript_expression":
                if self._points_here(function, node.child_by_field_name("argument")):
                    raise NoHolder(f"there are arrays of it ({function.file.path}:{function.file.span(node).line})")

    def _points_here(self, function: Function, node: Optional[Node]) -> bool:
        if node is None:
            return False
        node = strip_casts(node)
        return node.type == "identifier" and self._is_pointer_type(function, function.file.text(node))

    def _is_pointer_type(self, function: Function, variable: str) -> bool:
        found = {**function.file.globals, **function.parameters, **function.locals}.get(variable, "")
        return found.endswith("*") and " ".join(found[:-1].split()) in self.names

    # --- where it is made

    def _made(self) -> _Made:
        found = [made for file in self.files for function in file.functions for made in self._made_in(function)]
        if len(found) != 1:
            raise NoHolder(f"{len(found)} places that make one were found")
        made = found[0]
        after = self._behind_memset(made)
        for file, size in self._sizes:
            inside = file is made.function.file and is_around(made.call, size)
            cleared = after is not None and file is made.function.file and is_around(after, size)
            function = _function_of(size)
            if not inside and not cleared and (function is not None or not self.is_object):
                raise NoHolder(f"its size is used in {file.path}:{file.span(size).line}")
        self._refuse_detached(made)
        return made

    def _made_in(self, function: Function) -> Iterator[_Made]:
        for node in walk(function.body):
            if node.type in ("new_expression", "delete_expression") and self._is_named(function.file, node):
                raise NoHolder("it is made with new")
            if node.type != "call_expression":
                continue
            maker = _called(function.file, node)
            if maker not in _MEMORY and maker not in _OBJECTS and maker not in _OTHER_OBJECTS:
                continue
            variable = ctree.result_variable(function.file, node)
            is_one = self._is_pointer_type(function, variable)
            given = function.file.text(arguments(node)[0]) if arguments(node) else ""
            by_name = maker in (*_OBJECTS, "PyMem_New") and given in self.names
            by_size = any(file is function.file and is_around(node, size) for file, size in self._sizes)
            if is_one or by_name or by_size:
                if maker in _OTHER_OBJECTS or not is_one or variable not in function.locals:
                    line = function.file.span(node).line
                    raise NoHolder(f"it is made in a way that is not understood ({function.file.path}:{line})")
                yield _Made(function, node, maker, variable)

    def _refuse_detached(self, made: _Made) -> None:
        if made.maker not in _DETACHED:
            return
        nodes = walk(made.function.body, skip=frozenset({"lambda_expression"}))
        events = [e for node in nodes for e in ctree.events_at(made.function.file, node, self.whole.macros)]
        before = [event for event in events if event.start < made.call.start_byte]
        if any(event.kind in (Kind.DETACH, Kind.RELEASE, Kind.ENSURE) for event in before):
            raise NoHolder(f"whether {made.function.name} is attached where it makes one is not plain")
        uses = [event for event in before if event.kind is Kind.USES_PYTHON]
        certain = any(is_always_done(made.function.body, event.node, made.call.start_byte) for event in uses)
        if not made.function.called_by_python and not certain:
            raise NoHolder(f"{made.function.name}, which makes one, need not be attached")

    def _test_of(self, made: _Made) -> Node:
        """The `if` that leaves where there is no memory."""
        statement = statement_of(made.call)
        if statement.type == "if_statement" or statement.type in ("parenthesized_expression", "condition_clause"):
            test = statement if statement.type == "if_statement" else statement.parent
        else:
            test = _next(statement)
        if test is None or test.type != "if_statement" or test.child_by_field_name("alternative") is not None:
            raise NoHolder(f"no test for NULL follows where {made.function.name} makes one")
        if not _tests_null(made.function.file, test.child_by_field_name("condition"), made.variable):
            raise NoHolder(f"no test for NULL follows where {made.function.name} makes one")
        if test.parent.type not in ("compound_statement",):
            raise NoHolder(f"{made.function.name} makes one in no block of its own")
        return test

    def _behind_memset(self, made: _Made) -> Optional[Node]:
        """`memset(pointer, 0, sizeof(*pointer));` behind the test."""
        following = _next(self._test_of(made))
        if following is None or following.type != "expression_statement" or not following.named_children:
            return None
        call = following.named_children[0]
        if call.type != "call_expression" or _called(made.function.file, call) != "memset":
            return None
        first = arguments(call)[0] if arguments(call) else None
        is_it = first is not None and made.function.file.text(strip_casts(first)) == made.variable
        return following if is_it else None

    def _make(self, made: _Made) -> Edit:
        file, test = made.function.file, self._test_of(made)
        cleared = self._behind_memset(made)
        last = test if cleared is None else cleared
        end = edits.after_line(file.data, last.end_byte)
        if end is None:
            raise NoHolder(f"code follows on the line where {made.function.name} makes one")
        target = f"{made.variable}->{self.member}"
        undo = (_MEMORY.get(made.maker) or _OBJECTS[made.maker]).format(made.variable)
        leave = list(self._leave(made, test.child_by_field_name("consequence")))
        clear = ["PyErr_Clear();"] if made.maker not in _OBJECTS and not any("PyErr_" in line for line in leave) else []
        lines = [f"{target} = {CURRENT}();", f"if ({target} == NULL) {{"]
        lines += ["\t" + line for line in [f"{undo};", *clear, *leave]] + ["}"]
        indent = edits.indentation(file.data, test.start_byte)
        level = edits.unit(indent, edits.indentation(file.data, test.parent.end_byte - 1))
        line_end = edits.newline(file.data, end)
        return Edit(end, end, "".join(line_end + line for line in edits.indented(lines, indent, level)))

    def _leave(self, made: _Made, branch: Node) -> Iterator[str]:
        """What the function does when there is no memory; done here, too."""
        statements = branch.named_children if branch.type == "compound_statement" else [branch]
        statements = [node for node in statements if node.type != "comment"]
        if not statements or statements[-1].type != "return_statement":
            raise NoHolder(f"{made.function.name} does not return at once when it cannot make one")
        for node in statements:
            text = made.function.file.text(node)
            if node.type not in ("expression_statement", "return_statement") or "\n" in text or not text.isascii():
                raise NoHolder(f"what {made.function.name} does when it cannot make one is not plain")
            if re.search(rf"\b{re.escape(made.variable)}\b", text):
                raise NoHolder(f"what {made.function.name} does when it cannot make one is not plain")
            yield text

    def _refuse_type_object(self, made: _Made) -> None:
        """An object can be made by its type, too."""
        if made.maker in _MEMORY and not self.is_object:
            return
        if made.maker in _MEMORY or not self.is_object:
            raise NoHolder(f"it is made in a way that is not understood ({made.function.name})")
        types = [(file, _top(size)) for file, size in self._sizes if _function_of(size) is None]
        if len(types) != 1 or types[0][1].type != "declaration":
            raise NoHolder("its type object was not found")
        file, node = types[0]
        names = [name for name, _ in declared(file, node)]
        text = file.text(node)
        slots = "".join(found.group() for f in self.files for found in re.finditer(r"Py_tp_new\s*,[^}]*", _read(f)))
        if names:
            assigned = rf"\b{re.escape(names[0])}\s*\.\s*tp_new\s*=[^;]*"
            slots += "".join(found.group() for f in self.files for found in re.finditer(assigned, _read(f)))
        if made.maker == "tp_alloc":
            first = next(iter(made.function.parameters.values()), "")
            if first != "PyTypeObject*" or not re.search(rf"\b{re.escape(made.function.name)}\b", text + slots):
                raise NoHolder(f"{made.function.name}, which makes one, is not its type's tp_new")
        elif "DISALLOW_INSTANTIATION" not in text and (
            slots or "tp_new" in text or "PyType_GenericNew" in text or "PyType_Spec" in text or ".tp_" not in text
        ):
            raise NoHolder("its type can be called, too, and would make one without a view")

    # --- where it is freed

    def _frees(self) -> Iterator[Tuple[Function, Node, str]]:
        """(function, statement, variable)"""
        for file in self.files:
            for function in file.functions:
                for node in walk(function.body):
                    if node.type == "call_expression" and _FREES.fullmatch(_called(file, node)) and arguments(node):
                        variable = self._freed(function, arguments(node)[-1])
                        if variable:
                            yield function, self._statement(function, node), variable

    def _freed(self, function: Function, argument: Node) -> str:
        """The pointer to the struct whose memory this gives back."""
        argument = strip_casts(argument)
        name = function.file.text(argument)
        if argument.type != "identifier":
            return ""
        if self._is_pointer_type(function, name):
            return name
        for node in walk(function.body):
            if node.type == "init_declarator":
                value = without_casts(function.file, node.child_by_field_name("value"))
                inner = declared_name(function.file, node.child_by_field_name("declarator"))
                if value is not None and function.file.text(value) == name and self._is_pointer_type(function, inner):
                    return inner
        return ""

    def _statement(self, function: Function, call: Node) -> Node:
        statement = statement_of(call)
        if call.parent != statement or statement.parent.type not in ("compound_statement", "labeled_statement"):
            line = function.file.span(call).line
            raise NoHolder(f"it is freed in no block of its own ({function.file.path}:{line})")
        return statement

    def _close(self, function: Function, statement: Node, variable: str) -> Edit:
        """In front of what frees it; the pointer may be NULL there unless it was used."""
        data, at = function.file.data, int(statement.start_byte)
        used = self._is_used_before(function, statement, variable)
        text = f"{CLOSE}({variable}->{self.member});"
        if not used and not self.is_object:
            text = f"if ({variable} != NULL) {{ {text} }}"
        if data[edits.line_start(data, at) : at].strip():
            return Edit(at, at, text + " ")
        return Edit(at, at, text + edits.newline(data, at) + edits.indentation(data, at))


    def _is_used_before(self, function: Function, statement: Node, variable: str) -> bool:
        """On every way to the statement, in the block that it is in or in one around that."""
        use = re.compile(rf"\b{re.escape(variable)}\s*->")
        change = re.compile(rf"\b{re.escape(variable)}\s*=(?!=)")
        node = statement
        while node is not None and node != function.body:
            if node.parent.type in ("labeled_statement", "case_statement"):
                return False
            before = node.prev_named_sibling
            while before is not None and node.parent.type == "compound_statement":
                text = function.file.text(before)
                if before.type == "labeled_statement" or change.search(text):
                    return False
                if before.type in ("expression_statement", "declaration") and use.search(text):
                    if not re.search(r"\?|&&|\|\|", text):
                        return True
                before = before.prev_named_sibling
            node = node.parent
        return False


def _read(file: CFile) -> str:
    return file.data.decode("utf-8", "replace")


def _called(file: CFile, call: Node) -> str:
    callee = call.child_by_field_name("function")
    if callee is not None and callee.type == "field_expression":
        callee = callee.child_by_field_name("field")
    return file.text(callee).rsplit("::", 1)[-1] if callee is not None else ""


def _is_pointer(declarator: Node) -> bool:
    while declarator.type in ("init_declarator", "parenthesized_declarator"):
        below = declarator.child_by_field_name("declarator")
        if below is None:
            return False
        declarator = below
    return bool(declarator.type in ("pointer_declarator", "abstract_pointer_declarator"))


def _function_of(node: Node) -> Optional[Node]:
    while node is not None and node.type not in ("function_definition", "lambda_expression"):
        node = node.parent
    return node


def _top(node: Node) -> Node:
    """The declaration that this is in."""
    while node.parent is not None and node.type != "declaration":
        node = node.parent
    return node


def _next(statement: Node) -> Optional[Node]:
    following = statement.next_named_sibling
    while following is not None and following.type == "comment":
        following = following.next_named_sibling
    return following


def _lost(root: Node) -> Iterator[Node]:
    return (node for node in walk(root) if node.type == "ERROR")


def _tests_null(file: CFile, condition: Node, variable: str) -> bool:
    """`!pointer`, `pointer == NULL`, and the same of an assignment to it."""
    inner = condition
    while inner is not None and inner.type in ("parenthesized_expression", "condition_clause"):
        inner = inner.named_children[0] if len(inner.named_children) == 1 else None
    if inner is None:
        return False
    if inner.type == "unary_expression" and inner.children[0].type == "!":
        return _is_variable(file, inner.child_by_field_name("argument"), variable)
    if inner.type == "binary_expression" and inner.children[1].type == "==":
        left, right = inner.child_by_field_name("left"), inner.child_by_field_name("right")
        for one, other in ((left, right), (right, left)):
            if file.text(other) in _NULLS and _is_variable(file, one, variable):
                return True
    return False


def _is_variable(file: CFile, node: Node, variable: str) -> bool:
    node = strip_casts(node)
    if node.type == "assignment_expression":
        node = node.child_by_field_name("left")
    return node.type == "identifier" and file.text(node) == variable


def without_casts(file: CFile, node: Optional[Node]) -> Optional[Node]:
    if node is not None and node.type == "call_expression":
        callee = file.text(node.child_by_field_name("function")).replace(" ", "")
        if re.match(r"(?:static|reinterpret)_cast<", callee) and len(arguments(node)) == 1:
            return arguments(node)[0]
    return strip_casts(node) if node is not None else None


def declared_name(file: CFile, declarator: Node) -> str:
    while declarator is not None and declarator.type == "pointer_declarator":
        declarator = declarator.child_by_field_name("declarator")
    return file.text(declarator) if declarator is not None else ""


def is_around(block: Node, node: Node) -> bool:
    return bool(block.start_byte <= node.start_byte and node.end_byte <= block.end_byte)


def is_always_done(body: Node, node: Node, ensure: int) -> bool:
    below, above = node, node.parent
    while above is not None and below != body:
        if above.start_byte <= ensure < above.end_byte and above.type == "compound_statement":
            return True
        if above.type.startswith("preproc_") or above.type in _CHOOSES:
            if below != above.child_by_field_name("condition"):
                return False
        if above.type == "binary_expression" and above.children[1].type in ("&&", "||"):
            if below == above.child_by_field_name("right"):
                return False
        below, above = above, above.parent
    return True
