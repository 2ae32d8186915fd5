"""C and C++ files as parse trees: functions, macros, and the calls that matter, in order.

The parser is tree-sitter: it copes with code that does not compile, keeps byte positions, and says where it was lost.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
import functools
import re
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Sequence, Set, Tuple

from . import names, preprocessor
from .model import Span

Node = Any  # tree_sitter.Node: the package is optional, and its classes are only there with it

MOST_NESTING = 1000
"""Levels of a parse tree: tree-sitter's own functions recurse, and crash some 20,000 levels down an 8 MiB stack."""

CONTAINERS = frozenset(
    "translation_unit namespace_definition declaration_list class_specifier struct_specifier union_specifier "
    "field_declaration_list template_declaration linkage_specification preproc_if preproc_ifdef preproc_else "
    "preproc_elif preproc_elifdef ERROR declaration init_declarator field_declaration type_definition "
    "export_declaration".split()
)
STRAY = frozenset(
    "ERROR if_statement return_statement goto_statement labeled_statement while_statement do_statement for_statement "
    "switch_statement break_statement".split()
)
INTO = CONTAINERS | STRAY | {"compound_statement"}  # statements at file level have lost their head to a macro
TYPES = ("class_specifier", "struct_specifier")
CPLUSPLUS = re.compile(rb"^\s*(?:class|namespace|template|using)\b|\bstd::|^\s*(?:public|private|protected)\s*:", re.M)


class TooDeep(Exception):
    """Code that nobody wrote by hand."""


class Kind(enum.Enum):
    """What an event does to the thread's state, or to what it owns."""

    ENSURE = "ensure"
    RELEASE = "release"
    DETACH = "detach"
    REATTACH = "reattach"
    NEW_STATE = "new state"
    SCOPED_ACQUIRE = "scoped acquire"
    SCOPED_RELEASE = "scoped release"
    TOKEN_OPEN = "token open"
    TOKEN_CLOSE = "token close"
    GUARD_OPEN = "guard open"
    GUARD_CLOSE = "guard close"
    FINALIZE = "finalize"
    INITIALIZE = "initialize"
    TEST = "finalizing test"
    LOOKUP = "lookup"
    JOIN = "join"
    FROM_MAIN = "view of main"
    USES_PYTHON = "uses Python"


ATTACHES = frozenset({Kind.ENSURE, Kind.SCOPED_ACQUIRE, Kind.TOKEN_OPEN})

_BY_NAME: Dict[str, Kind] = {names.ENSURE: Kind.ENSURE, names.RELEASE: Kind.RELEASE}
for _kind, _names in (
    (Kind.DETACH, names.DETACH),
    (Kind.REATTACH, names.REATTACH),
    (Kind.NEW_STATE, names.NEW_STATE),
    (Kind.TOKEN_OPEN, names.TOKEN_OPEN),
    (Kind.TOKEN_CLOSE, names.TOKEN_CLOSE),
    (Kind.GUARD_OPEN, names.GUARD_OPEN),
    (Kind.GUARD_CLOSE, names.GUARD_CLOSE),
    (Kind.FINALIZE, names.FINALIZE),
    (Kind.INITIALIZE, names.INITIALIZE),
    (Kind.TEST, names.FINALIZING_TESTS),
    (Kind.LOOKUP, names.LOOKUPS),
    (Kind.JOIN, names.JOINS),
    (Kind.JOIN, names.LIBRARY_WAITS),
    (Kind.FROM_MAIN, ("PyInterpreterView_FromMain",)),
):
    _BY_NAME.update(dict.fromkeys(_names, _kind))


def kind_of(name: str) -> Optional[Kind]:
    """The kind of a call to a function of this name."""
    found = _BY_NAME.get(name)
    if found is None and names.NEEDS_ATTACHED.fullmatch(name):
        return Kind.USES_PYTHON
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Event:
    """A call that matters. `key` is the variable that takes its result or is handed to it, "" if there is none."""

    kind: Kind
    name: str
    node: Node
    key: str = ""
    macro: Optional["Macro"] = None

    @property
    def start(self) -> int:
        return int(self.node.start_byte)


@dataclasses.dataclass(eq=False)
class Macro:
    """A `#define` whose replacement attaches, detaches or releases, by itself or through other macros."""

    name: str
    file: "CFile"
    node: Node
    parameters: Optional[Tuple[str, ...]]
    body: str
    calls: List[Tuple[Kind, str, str]] = dataclasses.field(default_factory=list)
    """(kind, function, variable)"""
    through: FrozenSet[str] = frozenset()
    """The macros it uses that matter."""
    leaves: bool = False
    """Its replacement has a `return`, `goto`, `break` or `throw` of its own."""
    stands_for: str = ""
    """The function that it is another name of."""


class CFile:
    """A parsed file. `data` is what is on disk, `code` its C code; the tree was made from a copy of the same length."""

    cython = False
    editable = True
    """It is what is on disk, not made of that."""

    def __init__(self, path: str, data: bytes, masked: bytes, language: str, code: Optional[bytes] = None) -> None:
        self.path = path
        self.data = data
        self.code = data if code is None else code
        self.cuts: List[Tuple[int, int]] = []
        """What was left out of the tree, of conditionals that cut through something."""
        self.entries: Dict[int, bool] = {}
        """By its first byte, whether a function is called attached, where that is known from elsewhere."""
        self.language = language
        self.root = _parse(masked, language)
        self.lines = _line_starts(data)

    @functools.cached_property
    def functions(self) -> List["Function"]:
        return [Function(self, node, owner) for node, owner in _functions(self.root)]

    def text(self, node: Node) -> str:
        return self.code[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def span(self, node: Node) -> Span:
        return span_of(self.path, self.data, self.lines, node.start_byte, node.end_byte)

    def indent(self, node: Node) -> Optional[str]:
        """The blanks before a node that begins its line; None if something else stands there."""
        before = self.data[self.lines[bisect.bisect_right(self.lines, node.start_byte) - 1] : node.start_byte]
        return before.decode() if not before.strip(b" \t") else None

    @property
    def newline(self) -> str:
        return "\r\n" if b"\r\n" in self.data else "\n"

    @functools.cached_property
    def fields(self) -> Dict[str, Set[str]]:
        """The types of struct and class members, by member name."""
        found: Dict[str, Set[str]] = {}
        for node in walk(self.root, into=CONTAINERS | {"function_definition", "compound_statement"}):
            if node.type == "field_declaration":
                for name, type_text in declared(self, node):
                    found.setdefault(name, set()).add(type_text)
        return found

    @functools.cached_property
    def structs(self) -> Dict[str, Dict[str, str]]:
        """The types of the members of each struct and class, by its name or the name that a typedef gives it."""
        found: Dict[str, Dict[str, str]] = {}
        for node in walk(self.root, into=CONTAINERS):
            if node.type not in TYPES or node.child_by_field_name("body") is None:
                continue
            members: Dict[str, str] = {}
            for field in node.child_by_field_name("body").named_children:
                if field.type == "field_declaration":
                    members.update(declared(self, field))
            names_of = [node.child_by_field_name("name")]
            if node.parent is not None and node.parent.type == "type_definition":
                names_of += node.parent.children_by_field_name("declarator")
            for name in (self.text(name) for name in names_of if name is not None):
                other = found.get(name, members)  # of another arm of #if
                found[name] = {m: "" if other.get(m, kind) != kind else kind for m, kind in members.items()}
        return found

    @functools.cached_property
    def globals(self) -> Dict[str, str]:
        """The types of variables at file or namespace level, by name."""
        found: Dict[str, str] = {}
        for node in walk(self.root, into=CONTAINERS):
            if node.type == "declaration":
                found.update(declared(self, node))
        return found


class Function:
    """A function definition or a lambda."""

    def __init__(self, file: CFile, node: Node, owner: str) -> None:
        self.file = file
        self.node = node
        self.body = node.child_by_field_name("body")
        self.declarator = _function_declarator(node)
        self.is_lambda = node.type == "lambda_expression"
        self.name, scope = self._names()
        self.owner = scope or owner
        self.text = file.code[node.start_byte : node.end_byte]
        self.events: List[Event] = []

    def _names(self) -> Tuple[str, str]:
        if self.is_lambda:
            return "a lambda", ""
        inner = self.declarator.child_by_field_name("declarator") if self.declarator is not None else None
        while inner is not None and inner.type in ("attributed_declarator", "parenthesized_declarator"):
            inner = inner.named_children[0] if inner.named_children else None
        if inner is None:
            return "", ""
        *scopes, name = self.file.text(inner).replace(" ", "").split("::")
        return name, scopes[-1].split("<")[0] if scopes else ""

    @property
    def is_destructor(self) -> bool:
        return self.name.startswith("~")

    @property
    def is_constructor(self) -> bool:
        return bool(self.owner) and self.name == self.owner and not self.is_lambda

    @functools.cached_property
    def is_noexcept(self) -> bool:
        """By its own declaration; a destructor is, unless it says otherwise."""
        specifier = [c for c in self.declarator.children if c.type == "noexcept"] if self.declarator is not None else []
        if specifier:
            return "false" not in self.file.text(specifier[0])
        return self.is_destructor

    @functools.cached_property
    def return_type(self) -> str:
        """As written, pointer stars included; "" for constructors, destructors and lambdas."""
        if self.is_lambda or self.declarator is None:
            return ""
        type_node = self.node.child_by_field_name("type")
        if type_node is None:
            return ""
        behind = next((c for c in self.declarator.children if c.type == "trailing_return_type"), None)
        if behind is not None:
            return " ".join(self.file.text(behind.named_children[0]).split()) if behind.named_children else ""
        before = [c for c in self.node.children if c.type == "type_qualifier" and c.end_byte <= type_node.start_byte]
        words = [word for word in map(self.file.text, before) if word in ("const", "volatile")]
        whole = self.node.child_by_field_name("declarator")
        parts = (type_node.end_byte, self.declarator.start_byte), (self.declarator.end_byte, whole.end_byte)
        around = "".join(self.file.code[start:end].decode("utf-8", "replace") for start, end in parts)
        text = " ".join([*words, *(self.file.text(type_node) + around).split()])
        return _CONVENTION.sub("", text)

    @property
    def returns_value(self) -> bool:
        return bool(self.return_type) and self.return_type != "void"

    @functools.cached_property
    def parameters(self) -> Dict[str, str]:
        listed = self.declarator.child_by_field_name("parameters") if self.declarator is not None else None
        found: Dict[str, str] = {}
        for node in listed.named_children if listed is not None else ():
            found.update(declared(self.file, node))
        return found

    @functools.cached_property
    def locals(self) -> Dict[str, str]:
        """The types of local variables, by name; parameters are not among them."""
        found: Dict[str, str] = {}
        for node in walk(self.body, skip=frozenset({"lambda_expression"})) if self.body is not None else ():
            if node.type == "declaration":
                found.update(declared(self.file, node))
        return found

    @functools.cached_property
    def called_by_python(self) -> bool:
        """Its caller is attached: so Cython says, or its shape, a PyCFunction or slot with objects in and out."""
        known = self.file.entries.get(self.node.start_byte)
        if known is not None:
            return known
        takes = any("PyObject" in type_text for type_text in self.parameters.values())
        return takes and self.return_type.replace("static", "").replace(" ", "") == "PyObject*"

    @property
    def has_error(self) -> bool:
        """Of the body: what stands in parameter lists (attribute macros) changes no path."""
        return self.body is None or bool(self.body.has_error) or self._is_cut or self.is_half

    @property
    def _is_cut(self) -> bool:
        """Statements follow where only declarations can: the parser took some brace for the function's last one."""
        following = self.node.next_named_sibling
        while following is not None and following.type == "comment":
            following = following.next_named_sibling
        return not self.is_lambda and following is not None and following.type in STRAY

    @property
    def is_half(self) -> bool:
        """Some of it was left out of the tree: other arms have paths of their own."""
        start, end = self.node.start_byte, self.node.end_byte
        return any(start < cut[1] and cut[0] < end for cut in self.file.cuts)

    def of(self, *kinds: Kind) -> List[Event]:
        return [event for event in self.events if event.kind in kinds]


_CONVENTION = re.compile(r" ?\b(?:__stdcall|__cdecl|__fastcall|__vectorcall|WINAPI|APIENTRY|CALLBACK)\b")
"""How Windows passes arguments: no part of what a function returns."""

# --- parsing --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def parser(language: str) -> Any:
    import tree_sitter
    import tree_sitter_c
    import tree_sitter_cpp

    grammar = tree_sitter_c if language == "c" else tree_sitter_cpp
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def _parse(masked: bytes, language: str) -> Node:
    """Parse, blank out what no supported version compiles, and parse again if there was any."""
    root = parser(language).parse(masked).root_node
    if _is_too_deep(root):
        raise TooDeep(f"nested more than {MOST_NESTING} levels deep")
    dead = preprocessor.dead_ranges(root, masked) if b"#" in masked else []
    return parser(language).parse(preprocessor.blank(masked, dead)).root_node if dead else root


def directive_truth(directive: bytes) -> Optional[bool]:
    """Of one `#if` line, as preprocessor.condition_truth."""
    root = parser("c").parse(directive.rstrip() + b"\n#endif\n").root_node
    node = next((child for child in root.named_children if child.type in preprocessor.CONDITIONALS), None)
    return preprocessor.condition_truth(node) if node is not None else None


def _is_too_deep(root: Node) -> bool:
    cursor, depth = root.walk(), 0
    while depth <= MOST_NESTING:
        if cursor.goto_first_child():
            depth += 1
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return False
            depth -= 1
    return True


def guess_language(path: str, data: bytes) -> str:
    """C++ for its own suffixes and for headers that need it."""
    suffix = path.rsplit(".", 1)[-1]
    if suffix in ("c", "m"):
        return "c"
    if suffix in ("h", "i", "in", "inc"):
        return "cpp" if CPLUSPLUS.search(data) else "c"
    return "cpp"


def mask(data: bytes, statements: Sequence[str]) -> bytes:
    """Give each statement macro a semicolon, in place of the blank behind it, so that no byte moves.

    Without it the parser reads `Py_BEGIN_ALLOW_THREADS` and the statement behind it as one declaration.
    """
    words = b"|".join(re.escape(name).encode() for name in sorted(statements, key=len, reverse=True))
    result = bytearray(data)
    for found in re.finditer(rb"\b(?:" + words + rb")\b", data):
        end = _end_of_use(data, found.end())
        after = data[end : end + 1]
        following = data[end : end + 200].lstrip(b" \t\r\n")[:1] if after.isspace() else after
        if after.isspace() and following not in (b";", b",", b")", b"(") and not in_directive(data, found.start()):
            result[end] = ord(";")
    return bytes(result)


def _end_of_use(data: bytes, at: int) -> int:
    """Behind the arguments of a macro, if it is given any."""
    opening = re.compile(rb"[ \t]*\(").match(data, at)
    if opening is None:
        return at
    depth = 0
    for found in re.compile(rb"[()]|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'").finditer(data, opening.end() - 1):
        depth += {b"(": 1, b")": -1}.get(found.group(), 0)
        if depth == 0:
            return found.end()
    return at


def in_directive(data: bytes, at: int) -> bool:
    """Whether this byte belongs to a preprocessor line, continued ones included."""
    start = data.rfind(b"\n", 0, at) + 1
    while data[max(0, start - 3) : start].rstrip(b"\r\n")[-1:] == b"\\":
        start = data.rfind(b"\n", 0, start - 1) + 1
    return data[start:at].lstrip().startswith(b"#")


def walk(node: Node, into: Optional[FrozenSet[str]] = None, skip: FrozenSet[str] = frozenset()) -> Iterator[Node]:
    """All nodes below and including this one, in source order, without recursion."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        if (into is None or current.type in into) and (current is node or current.type not in skip):
            stack.extend(reversed(current.named_children))


def _functions(root: Node) -> Iterator[Tuple[Node, str]]:
    """Function definitions with the class around each; lambdas are found when their function is looked into."""
    stack: List[Tuple[Node, str]] = [(root, "")]
    while stack:
        node, owner = stack.pop()
        if node.type == "function_definition" and node.child_by_field_name("body") is not None:
            yield node, owner
            continue
        if node.type == "lambda_expression" and node.child_by_field_name("body") is not None:
            yield node, ""
            continue
        if node.type in TYPES:
            name = node.child_by_field_name("name")
            owner = name.text.decode("utf-8", "replace").split("<")[0] if name is not None else ""
        if node.type in INTO:
            stack.extend((child, owner) for child in reversed(node.named_children))


def _function_declarator(node: Node) -> Node:
    inner, found = node.child_by_field_name("declarator"), None
    for _ in range(32):  # pointers to pointers, references, parentheses
        if inner is None or inner.type == "abstract_function_declarator":
            return inner if found is None else found
        if inner.type == "function_declarator":  # the innermost: the others are of the function that it returns
            found = inner
        below = inner.child_by_field_name("declarator")
        if below is None:
            below = inner.named_children[0] if inner.named_children else None
        inner = below
    return found


def declared(file: CFile, node: Node) -> List[Tuple[str, str]]:
    """(name, type) of each variable a declaration, field or parameter declares; stars are part of the type."""
    type_node = node.child_by_field_name("type")
    if type_node is None:
        return []
    base = file.text(type_node)
    found = []
    for declarator in node.children_by_field_name("declarator"):
        stars = ""
        for _ in range(32):
            if declarator is None or declarator.type in ("identifier", "field_identifier"):
                break
            if declarator.type == "function_declarator":
                declarator = None
                break
            stars += "*" if declarator.type in ("pointer_declarator", "array_declarator") else ""
            below = declarator.child_by_field_name("declarator")
            if below is None:
                below = declarator.named_children[0] if declarator.named_children else None
            declarator = below
        if declarator is not None:
            found.append((file.text(declarator), base + stars))
    return found


def _line_starts(data: bytes) -> List[int]:
    return [0, *(found.end() for found in re.finditer(rb"\n", data))]


def span_of(path: str, data: bytes, lines: Sequence[int], start: int, end: int) -> Span:
    def place(at: int) -> Tuple[int, int]:
        line = bisect.bisect_right(lines, at)
        return line, len(data[lines[line - 1] : at].decode("utf-8", "replace")) + 1

    line, column = place(start)
    end_line, end_column = place(end)
    return Span(path, start, end, line, column, end_line, end_column)


# --- events ---------------------------------------------------------------------------------------------------


def add_events(function: Function, macros: Dict[str, Macro]) -> List[Function]:
    """Fill in the function's events; returns the lambdas inside it, filled in, too."""
    lambdas: List[Function] = []
    for node in _post_order(function.node):
        if node.type == "lambda_expression" and node != function.node:
            inner = Function(function.file, node, "")
            if inner.body is not None:
                lambdas += [inner, *add_events(inner, macros)]
            continue
        function.events += events_at(function.file, node, macros)
    return lambdas


def _post_order(node: Node) -> Iterator[Node]:
    """Arguments before the call they belong to; what is inside a lambda belongs to the lambda."""
    stack = [(node, False)]
    while stack:
        current, done = stack.pop()
        if done or (current.type == "lambda_expression" and current != node):
            yield current
            continue
        stack.append((current, True))
        stack.extend((child, False) for child in reversed(current.named_children))


def events_at(file: CFile, node: Node, macros: Dict[str, Macro]) -> List[Event]:
    """What this node itself does, not what is below it."""
    if node.type == "call_expression":
        return _call(file, node, macros)
    if node.type == "identifier" and not _is_callee(node):
        name = file.text(node)
        if name in names.STATEMENT_MACROS:
            return [Event(_BY_NAME[name], name, node)]
        if name in macros and macros[name].parameters is None:
            return _expand(macros[name], node, [])
        return []
    if node.type in ("declaration", "new_expression"):
        return _scoped(file, node)
    return []


def _is_callee(node: Node) -> bool:
    parent = node.parent
    return parent is not None and parent.type == "call_expression" and parent.child_by_field_name("function") == node


def _call(file: CFile, node: Node, macros: Dict[str, Macro]) -> List[Event]:
    callee = node.child_by_field_name("function")
    if callee is None:
        return []
    if callee.type == "field_expression":
        field = callee.child_by_field_name("field")
        if field is not None and file.text(field) in WAITING_METHODS and not arguments(node):
            return [Event(Kind.JOIN, file.text(field), node, file.text(callee.child_by_field_name("argument")))]
        return []
    name = file.text(callee).replace(" ", "")
    name = name[2:] if name.startswith("::") else name
    if name in macros and macros[name].parameters is not None:
        events = _expand(macros[name], node, [normal(file, argument) for argument in arguments(node)])
        if len(events) == 1 and not events[0].key:  # `#define TAKE() PyGILState_Ensure()`
            return [dataclasses.replace(events[0], key=result_variable(file, node))]
        return events
    if name in macros and macros[name].stands_for:
        kind = kind_of(macros[name].stands_for)
        return [Event(kind, macros[name].stands_for, node, _key(file, node, kind), macros[name])] if kind else []
    if SCOPED_TEMPLATE.fullmatch(name):
        return [Event(Kind.SCOPED_ACQUIRE, name, node)]
    kind = kind_of(name)
    if kind is None:
        return []
    return [Event(kind, name, node, _key(file, node, kind))]


WAITING_METHODS = {
    "join": ("std::thread", "std::jthread", "boost::thread"),
    "wait": ("std::future", "std::shared_future"),
    "get": ("std::future", "std::shared_future"),
}
"""Methods without arguments that wait for a thread, and of which classes."""
START_ROUTINES = {"pthread_create": 2, "thrd_create": 1, "std::thread": 0, "std::jthread": 0, "std::async": 0}
"""Which argument is the function that the new thread runs."""
SCOPED_TEMPLATE = re.compile(r"std::make_(?:unique|shared|optional)<(?:\w+::)*gil_scoped_acquire>")
_TAKES = (Kind.RELEASE, Kind.TOKEN_CLOSE, Kind.GUARD_CLOSE, Kind.JOIN)


def _key(file: CFile, call: Node, kind: Kind) -> str:
    if kind in _TAKES:
        given = arguments(call)
        return normal(file, strip_casts(given[0])) if given else ""
    return result_variable(file, call)


def started(file: CFile) -> Iterator[Tuple[Node, Node]]:
    """Each call that starts a thread, with the argument that says what it runs."""
    for node in walk(file.root) if re.search(rb"thr(?:ea)?d|async", file.data) else ():
        if node.type == "call_expression":
            callee = file.text(node.child_by_field_name("function"))
            given = arguments(node)
            at = START_ROUTINES.get(callee)
            if callee == "std::async" and given and b"launch" in given[0].text:
                at = 1
            if at is not None and len(given) > at:
                yield node, given[at]
        elif node.type == "declaration":
            type_node = node.child_by_field_name("type")
            if type_node is None or file.text(type_node) not in START_ROUTINES:
                continue
            for declarator in node.children_by_field_name("declarator"):  # std::thread worker(run, 1);
                value = declarator.child_by_field_name("value") if declarator.type == "init_declarator" else None
                if value is not None and value.type in ("argument_list", "initializer_list") and value.named_children:
                    yield declarator, value.named_children[0]


def routine_name(file: CFile, given: Node) -> str:
    return file.text(strip_casts(given)).lstrip("&").split("::")[-1]


def arguments(call: Node) -> List[Node]:
    listed = call.child_by_field_name("arguments")
    return [node for node in listed.named_children if node.type != "comment"] if listed is not None else []


def strip_casts(node: Node) -> Node:
    for _ in range(32):
        if node.type == "cast_expression":
            node = node.child_by_field_name("value") or node
        elif node.type == "parenthesized_expression" and node.named_children:
            node = node.named_children[0]
        else:
            break
    return node


def normal(file: CFile, node: Node) -> str:
    return re.sub(r"\s+|^this->", "", file.text(node))


def result_target(call: Node) -> Optional[Node]:
    """The node that takes the result of a call: a declarator, the left side of `=`, a `return`, or None."""
    node, parent = call, call.parent
    while parent is not None and parent.type in ("cast_expression", "parenthesized_expression"):
        node, parent = parent, parent.parent
    if parent is None:
        return None
    in_condition = parent.type == "declaration" and node != parent.child_by_field_name("type")
    if parent.type == "init_declarator" or in_condition:
        return parent.child_by_field_name("declarator")
    if parent.type == "assignment_expression" and parent.child_by_field_name("right") == node:
        return parent.child_by_field_name("left")
    if parent.type in ("argument_list", "initializer_list") and parent.parent is not None:
        owner = parent.parent
        if owner.type == "field_initializer":
            return owner.named_children[0]
        if owner.type == "init_declarator":  # T x(f()) and T x{f()}
            return owner.child_by_field_name("declarator")
    if parent.type == "return_statement":
        return parent
    return None


def result_variable(file: CFile, call: Node) -> str:
    target = result_target(call)
    if target is None or target.type == "return_statement":
        return ""
    while target.type in ("pointer_declarator", "reference_declarator"):
        below = target.child_by_field_name("declarator") or (target.named_children or [None])[0]
        if below is None:
            return ""
        target = below
    return normal(file, target)


def _expand(macro: Macro, node: Node, given: List[str]) -> List[Event]:
    by_name = dict(zip(macro.parameters or (), given))
    return [Event(kind, name, node, by_name.get(key, key), macro) for kind, name, key in macro.calls]


def _scoped(file: CFile, node: Node) -> List[Event]:
    """`py::gil_scoped_acquire gil;` and relatives; a declaration without a variable is a forward declaration."""
    type_node = node.child_by_field_name("type")
    if type_node is None or type_node.type not in ("qualified_identifier", "type_identifier"):
        return []
    name = file.text(type_node).replace(" ", "")
    last = name.rsplit("::", 1)[-1]
    if node.type == "declaration" and node.child_by_field_name("declarator") is None:
        return []
    if re.match(r"(?:::)?pep788::", name):
        return []  # ours, which can be tested
    if last == names.SCOPED_ACQUIRE:
        return [Event(Kind.SCOPED_ACQUIRE, name, node)]
    if last == names.SCOPED_RELEASE and node.type == "declaration":
        return [Event(Kind.SCOPED_RELEASE, name, node)]
    return []


# --- macros ---------------------------------------------------------------------------------------------------

LEAVES = re.compile(r"\b(?:return|goto|break|continue|throw)\b")
_MACRO_KINDS = frozenset(
    {Kind.ENSURE, Kind.RELEASE, Kind.DETACH, Kind.REATTACH, Kind.NEW_STATE, Kind.TOKEN_OPEN, Kind.TOKEN_CLOSE,
     Kind.GUARD_OPEN, Kind.GUARD_CLOSE, Kind.SCOPED_ACQUIRE}
)  # fmt: skip


def definitions(file: CFile) -> Iterator[Macro]:
    """Every `#define` with a replacement."""
    into = CONTAINERS | {"function_definition", "compound_statement", "preproc_else", "preproc_elif"}
    for node in walk(file.root, into=into):
        if node.type not in ("preproc_def", "preproc_function_def"):
            continue
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None or value is None:
            continue
        listed = node.child_by_field_name("parameters")
        parameters = tuple(map(file.text, listed.named_children)) if listed is not None else None
        body = re.sub(r"\\\r?\n", lambda found: " " * len(found.group()), file.text(value))
        yield Macro(file.text(name), file, node, parameters, body)


def unquoted(code: str) -> str:
    """Without what stands in strings and comments."""
    return re.sub(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', '""', code, flags=re.DOTALL)


def understand(macro: Macro, known: Dict[str, Macro]) -> bool:
    """Find what the macro's replacement does; returns whether that is anything that matters."""
    name = macro.body.strip()
    if macro.parameters is None and kind_of(name) in _MACRO_KINDS:
        macro.stands_for = name
        return True
    text = b"void f(void) {" + mask(macro.body.encode(), [*names.STATEMENT_MACROS, *known]) + b";}"
    try:
        inside = CFile(macro.file.path, text, text, macro.file.language)
    except TooDeep:
        return False
    others = {name: other for name, other in known.items() if name != macro.name}
    events = [event for node in _post_order(inside.root) for event in events_at(inside, node, others)]
    macro.calls = [(event.kind, event.name, event.key) for event in events if event.kind in _MACRO_KINDS]
    inner = [event.macro for event in events if event.macro is not None]
    macro.through = frozenset(name for m in inner for name in (m.name, *m.through))
    macro.leaves = bool(LEAVES.search(unquoted(macro.body)))
    return bool(macro.calls)
