"""One PyGILState_Ensure and its releases in one function: whether all of it can be seen, and the edits if so.

Only the statement of the Ensure grows a test; each Release keeps its place.  On failure the function is left at once,
so what the rest of it would have done is looked at, too: what others may wait for is a question for the author.
"""

from __future__ import annotations

import re
from typing import Callable, Iterator, List, Optional, Tuple, Type, TypeVar

from ..check.ctree import CFile, Event, Function, Kind, Node, arguments, strip_casts, walk
from ..check.flow import Flow
from ..check.model import Edit
from ..check.project import Project, embeds, type_of
from ..check.rules.p106_state_type import PRIMITIVE
from ..check.sources import SWIG_SUFFIXES
from . import edits
from .decisions import Decision, Decisions
from .model import Asked, Outcome, Refused, Site, shown_name

ENSURE, RELEASE = "PyThreadState_EnsureFromView", "PyThreadState_Release"

# What was begun before the Ensure and is ended after it would stay begun.
BEGINS = re.compile(
    r"(?<![bc])lock|acquire|enter|begin|suspend|disable|retain|incref|(?:^|_)(?:ref|push|start)(?:_|$)", re.I
)
# Somebody may wait for these.
ENDS = re.compile(
    r"(?<![bc])lock|leave|signal|broadcast|notify|post|wake|resume|enable|complete|finish|done|set_?event|release"
    r"|(?:^|_)(?:end|pop|stop|decref|unref)(?:_|$)|(?:^|_)set$",
    re.I,
)
ALLOCATES = re.compile(r"alloc|dup$|(?:^|_)(?:new|create|open)(?:_|$)", re.I)
FREES = re.compile(r"free|delete|destroy|close", re.I)
# What is freed behind one of these, with the same argument, was taken there.
TAKES = re.compile(r"(?:^|_)ref(?:_|$)|[a-z]Ref$|(?i:addref|incref|retain|acquire|dup$)")
# A caller looks for the result of a function that returns nothing in what these were given.
TELLS = re.compile(r"error|result|reply|respond", re.I)
T = TypeVar("T")
Twins = Callable[[Function], Optional[List[Tuple[Project, Function]]]]
LOOPS = ("while_statement", "do_statement", "for_statement", "for_range_loop")
OBJECTIVE_C = (".m", ".mm")
_NO_RETURN = re.compile(rb"\b(?:_Noreturn|(?:__)?noreturn(?:__)?)\b")
NO_OBJECTIVE_C = "Objective-C: its blocks, @try and @autoreleasepool are not understood"
_PARALLEL = re.compile(r"\s*#\s*pragma\s+(?:omp|acc)\b")
BLOCKS = frozenset(
    "compound_statement if_statement else_clause switch_statement case_statement labeled_statement try_statement "
    "catch_clause".split()
).union(LOOPS)
"""What the Ensure may be in: what a return would skip is looked at there."""
_OF_PYTHON = re.compile(r"_?Py_?(?!Thread_|Mutex_)[A-Z]|Pep788_")


def migrate(
    kind: "Type[Pair]",
    project: Project,
    function: Function,
    ensure: Event,
    decisions: Decisions,
    view: Callable[[], str],
    twins: Twins,
) -> Site:
    """The migrated site; raises NotMigrated, with all questions at once. `view` gives the expression, or asks.

    `twins` gives the function with the macros expanded that may leave it, or None if there are none in it.
    """
    decision = decisions.of(function)
    if decision.skip:
        raise Refused(f"by decision: {decision.skip}")
    refuse_kind(project, function, ensure)
    pair = kind(project, function, ensure)
    pair.refuse_unseen(twins)
    questions: List[Asked] = []
    pair.ask_of_failure(decision, questions)
    leave = or_ask(lambda: leave_statements(function, decision, decisions), questions)
    expression = decision.view or or_ask(view, questions)
    if questions or leave is None or expression is None:
        options = dict.fromkeys(option for question in questions for option in question.options)
        raise Asked(" And ".join(question.reason for question in questions), *options)
    notes = tuple(pair.notes())
    changes = tuple(pair.edits(expression, leave))
    span = function.file.span(ensure.node)
    return Site(span, shown_name(function), Outcome.MIGRATED, notes=notes, edits=changes, view=expression)


def or_ask(get: Callable[[], T], questions: List[Asked]) -> Optional[T]:
    try:
        return get()
    except Asked as question:
        questions.append(question)
        return None


def refuse_kind(project: Project, function: Function, ensure: Event) -> None:
    _refuse_swig_code(function)
    if embeds(function):
        raise Refused("the function starts or ends Python itself")
    refuse_no_return(function)
    if function.is_constructor:
        raise Refused("a constructor cannot report failure: keep a pep788::attached in the object and test it")
    if not project.pairs(function, ensure):
        if function.has_error:
            raise Refused("its paths cannot be followed: not all of it was parsed")
        elsewhere = "under another name" if function.of(Kind.RELEASE) else "in another function"
        raise Refused(f"it is released {elsewhere}")
    if not ensure.key:
        raise Refused("what PyGILState_Ensure gives is not kept")


def _refuse_swig_code(function: Function) -> None:
    """The body of a directive such as `%exception`: a return there would leave a function of SWIG's."""
    if function.file.path.lower().endswith(SWIG_SUFFIXES):
        data, start = function.file.data, int(function.body.start_byte)
        head = re.split(rb"[{};]", data[edits.line_start(data, start) : start])[-1]
        if b"%" in head:
            raise Refused("SWIG copies this code into functions of its own")


def refuse_no_return(function: Function) -> None:
    """Where no return can be put in, or not one whose value can be told.

    What a lambda returns need not be written down, so it is looked for; those inside of it are others.
    """
    if function.file.path.lower().endswith(OBJECTIVE_C):
        raise Refused(NO_OBJECTIVE_C)
    if any(node.type.startswith("co_") for node in walk(function.body, skip=frozenset({"lambda_expression"}))):
        raise Refused("a coroutine: it may go on in another thread, and a return in it is no way out")
    if _NO_RETURN.search(function.text[: function.body.start_byte - function.node.start_byte]):
        raise Refused("it is declared not to return")
    if function.is_lambda:
        declarator = function.declarator.children if function.declarator is not None else ()
        nodes = walk(function.body, skip=frozenset({"lambda_expression"}))
        behind = [function.file.text(c).strip("-> ") for c in declarator if c.type == "trailing_return_type"]
        if any(kind != "void" for kind in behind) or any(
            node.type == "return_statement" and node.named_children for node in nodes
        ):
            raise Refused("a lambda that returns something, and has no name for a decision")


def refuse_detached(function: Function, ensure: Event) -> None:
    """Between Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS: a return would go on without the thread state."""
    before = [event for event in function.of(Kind.DETACH, Kind.REATTACH) if event.start < ensure.start]
    if before and before[-1].kind is Kind.DETACH:
        line = function.file.span(before[-1].node).line
        raise Refused(f"the function has detached in line {line}: a return would go on without its thread state")


def refuse_parallel(file: CFile, block: Node) -> None:
    """A return may not leave the block of `#pragma omp parallel`."""
    before = block.prev_named_sibling
    while before is not None and before.type == "comment":
        before = before.prev_named_sibling
    if before is not None and before.type == "preproc_call" and _PARALLEL.match(file.text(before)):
        raise Refused(f"no return may leave the block of {' '.join(file.text(before).split())}")


def leave_statements(function: Function, decision: Decision, decisions: Decisions) -> List[str]:
    """What runs on failure, as lines."""
    lines = [decision.before] if decision.before else []
    if function.return_type == "void" or function.is_destructor or function.is_lambda:
        return [*lines, "return;"]
    if not function.return_type:
        raise Refused("what it returns is not written down")
    value = decisions.value(function)
    if value is None:
        name = shown_name(function)
        raise Asked(
            f"what does {name} return ({function.return_type}) where Python is finalizing?",
            f"--failure-value '{name}=EXPR'",
            f'skip = "REASON" under [callbacks."{name}"] in the decisions file, where no value is right',
        )
    return [*lines, f"return {value};" if value else "return;"]


class Pair:
    """The site and all that can be seen of it."""

    def __init__(self, project: Project, function: Function, ensure: Event) -> None:
        self.project = project
        self.function = function
        self.file = function.file
        self.ensure = ensure
        self.key = ensure.key
        self.releases = project.pairs(function, ensure)
        self.statement = statement_of(ensure.node)

    # --- what must hold

    def refuse_unseen(self, twins: Twins) -> None:
        self._refuse_variable()
        self._refuse_place()
        refuse_detached(self.function, self.ensure)
        for one in self._to_follow(twins):
            one._refuse_flows()

    def _refuse_flows(self) -> None:
        flows = self.project.flows(self.function)
        if not flows:
            cut = ": conditional compilation cuts through it" if self.function.is_half else ""
            raise Refused(f"its paths cannot be followed{cut}")
        for flow in flows:
            self._refuse_paths(flow)

    def _to_follow(self, twins: Twins) -> "Iterator[Pair]":
        """Itself, or the same pair in the twins of its function."""
        found = twins(self.function)
        if found is None:
            yield self
            return
        mine = self.function.of(Kind.ENSURE)
        for own, twin in found:
            ensures = twin.of(Kind.ENSURE)
            if [event.key for event in ensures] != [event.key for event in mine]:
                found = []
                break
            yield Pair(own, twin, ensures[mine.index(self.ensure)])
        if not found:
            raise Refused("a macro in it may leave it, and cannot be followed")

    def _refuse_variable(self) -> None:
        declared = (type_of(self.function, self.key) or "").strip()
        if self.key not in self.function.locals:
            raise Refused(f"{self.key} is not a local variable")
        if PRIMITIVE.fullmatch(declared):
            raise Refused(f"{self.key} is kept as {declared}: a token is a pointer, and may be cut off")
        if declared not in self._types:
            raise Refused(f"{self.key} is kept as {declared}, not as PyGILState_STATE")
        if not self.key.isascii():
            raise Refused(f"{self.key} is not an ASCII name")
        if sum(event.key == self.key for event in self.function.of(Kind.ENSURE)) > 1:
            raise Refused(f"{self.key} is assigned more than once")
        if any(release.macro is not None for release in self.releases):
            raise Refused("it is released through a macro")
        if len(self._declarators()) != 1:
            raise Refused(f"{self.key} is declared more than once, or with other variables")
        if any(c.type in ("storage_class_specifier", "type_qualifier") for c in self._declaration.children):
            raise Refused(f"{self.key} is declared static, const or the like")
        known = {self._declarators()[0].start_byte, *(arguments(r.node)[0].start_byte for r in self.releases)}
        target = self._assigned()
        known |= {target.start_byte} if target is not None else set()
        for node in walk(self.function.node):
            if node.type == "identifier" and self.file.text(node) == self.key and node.start_byte not in known:
                raise Refused(f"{self.key} is used otherwise in line {self.file.span(node).line}")
        if len(self._mentions()) != len(known):
            raise Refused(f"{self.key} is used in code that is not compiled on CPython 3.9 and later, or not parsed")

    @property
    def _types(self) -> Tuple[str, ...]:
        """What the variable may be declared as: the token has the type that `auto` becomes, too."""
        return ("PyGILState_STATE", "auto") if self.file.language == "cpp" else ("PyGILState_STATE",)

    @property
    def _declaration(self) -> Node:
        parent = self._declarators()[0].parent
        return parent if parent.type == "declaration" else parent.parent

    def _declarators(self) -> List[Node]:
        """The names in `PyGILState_STATE name;` and `PyGILState_STATE name = ...;`, each declared alone."""
        found: List[Node] = []
        for node in walk(self.function.body):
            kind = node.child_by_field_name("type") if node.type == "declaration" else None
            if kind is None or self.file.text(kind) not in self._types:
                continue
            declarators = node.children_by_field_name("declarator")
            names = [d.child_by_field_name("declarator") if d.type == "init_declarator" else d for d in declarators]
            if self.key in map(self.file.text, filter(None, names)):
                found += names if len(names) == 1 or len(found) else [*names, *names]
        return [name for name in found if name is not None and name.type == "identifier"]

    def _assigned(self) -> Optional[Node]:
        """The left side of `name = PyGILState_Ensure()`, where it is a statement of its own."""
        parent = self.ensure.node.parent
        if parent is not None and parent.type == "assignment_expression":
            left: Node = parent.child_by_field_name("left")
            return left
        return None

    def _mentions(self) -> List[int]:
        """Where the name is in the text, comments and literals apart."""
        apart = [
            (node.start_byte, node.end_byte)
            for node in walk(self.function.node)
            if node.type in ("comment", "string_literal", "char_literal", "raw_string_literal")
        ]
        base = self.function.node.start_byte
        places = [base + found.start() for found in re.finditer(rb"\b%b\b" % self.key.encode(), self.function.text)]
        return [at for at in places if not any(start <= at < end for start, end in apart)]

    def _refuse_place(self) -> None:
        if not self._fits_place():
            raise Refused("PyGILState_Ensure is part of a larger expression")
        for block in self._around():
            if block.type not in BLOCKS:
                raise Refused(f"PyGILState_Ensure is in {what(block)}")
            refuse_parallel(self.file, block)
        if self.statement.parent.type not in ("compound_statement", "case_statement"):
            raise Refused("PyGILState_Ensure is in no block of its own: its test would not go with it")

    def _around(self) -> Iterator[Node]:
        """What the statement of the Ensure is in, the function's own block apart."""
        block = self.statement.parent
        while block is not None and block != self.function.body:
            yield block
            block = block.parent

    def _fits_place(self) -> bool:
        """It is all that its statement does: initializes the variable or is assigned to it."""
        node, parent = self.ensure.node, self.ensure.node.parent
        if parent.type == "init_declarator":
            return bool(parent.child_by_field_name("value") == node and parent.parent == self.statement)
        if parent.type != "assignment_expression" or parent.children[1].type != "=":
            return False
        return bool(parent.child_by_field_name("left").type == "identifier" and parent.parent == self.statement)

    def _refuse_paths(self, flow: Flow) -> None:
        site = self.ensure.start
        for event, states in flow.visits.values():
            if event.start == site and any(state.held for state in states):
                raise Refused("another state, token or guard is held when PyGILState_Ensure is called")
            if event.start in {release.start for release in self.releases}:
                if not all(any(r.site == site for r in state.held) for state in states):
                    line = self.file.span(event.node).line
                    raise Refused(f"PyGILState_Release in line {line} may also be reached without PyGILState_Ensure")
        if any(r.site == site for exit in flow.exits for state in exit.states for r in state.held):
            raise Refused("a path leaves the function without PyGILState_Release")

    # --- what an early return leaves out

    def ask_of_failure(self, decision: Decision, questions: List[Asked]) -> None:
        if not decision.accept:
            or_ask(self.ask_what_is_left_out, questions)
        if not decision.accept and not decision.before:
            or_ask(self.ask_how_it_tells, questions)

    def ask_what_is_left_out(self) -> None:
        before = self._is_begun()
        if before is not None:
            self._ask(before, "was done before; is it right to return without undoing it?")
        for node in self._in_loops():
            self._ask(node, "is in a loop that is left on failure, and would not be done again; may it be left out?")
        for node in self._after_release():
            self._ask(node, "is outside of the pair and would not be done on failure; may it be left out?")
        for node, name in self._calls(self.statement.end_byte):
            if ENDS.search(name) and not FREES.search(name):
                self._ask(node, "would not be done on failure; may it be left out?")
        if self.function.is_destructor:
            for node, _ in self._calls(self.statement.end_byte):
                self._ask(node, "would not be done by this destructor on failure; may it be left out?")

    def ask_how_it_tells(self) -> None:
        """Of a function without a value: its caller may take silence for success. A `before` answers that, too."""
        for node, name in self._calls(self.statement.end_byte) if self.function.return_type == "void" else ():
            if TELLS.search(name) and node.parent.type == "expression_statement" and self._is_given_a_parameter(node):
                self._ask(node, "may be how the caller is told, and would not be done on failure; may it be left out?")

    def _ask(self, node: Node, question: str) -> None:
        text = " ".join(self.file.text(node).split())
        text = text if len(text) <= 50 else text[:47] + "..."
        name = shown_name(self.function)
        raise Asked(
            f"`{text}` in line {self.file.span(node).line} {question}",
            f'accept = true under [callbacks."{name}"] in the decisions file, if it may',
            'before = "STATEMENT;" beside it, for what must run before the return',
            'skip = "REASON" in place of both, to leave the site as it is',
        )

    def _is_begun(self) -> Optional[Node]:
        """Before the Ensure: a lock taken, a member changed."""
        end = self.statement.start_byte
        for node in walk(self.function.body):
            if node.start_byte >= end or node.end_byte > end:
                continue
            if node.type == "call_expression" and BEGINS.search(self._called(node)):
                return node
            if self._changes_more_than_locals(node):
                return node
        return None

    def _in_loops(self) -> Iterator[Node]:
        """What the loops around the pair do, the pair and what follows it apart."""
        end = self.statement.start_byte
        last = max(release.node.end_byte for release in self.releases)
        for loop in self._around():
            if loop.type in LOOPS and not self._runs_once(loop):
                for node in walk(loop):
                    if node.end_byte <= end or node.start_byte >= last:
                        if self._has_effect(node):
                            yield node

    def _runs_once(self, loop: Node) -> bool:
        return loop.type == "do_statement" and self._condition(loop) in ("0", "false")

    def _condition(self, loop: Node) -> str:
        return self.file.text(loop.child_by_field_name("condition")).strip("() ")

    def _has_effect(self, node: Node) -> bool:
        if node.type == "call_expression":
            return not _OF_PYTHON.match(self._called(node))
        return node.type in ("delete_expression", "throw_statement", "new_expression") or (
            self._changes_more_than_locals(node)
        )

    def _calls(self, start: int) -> Iterator[Tuple[Node, str]]:
        """Calls from here on that are not Python's."""
        for node in walk(self.function.body):
            if node.start_byte < start or node.type not in ("call_expression", "delete_expression"):
                continue
            name = self._called(node) if node.type == "call_expression" else "delete"
            if name and not _OF_PYTHON.match(name):
                yield node, name

    def _is_given_a_parameter(self, call: Node) -> bool:
        return any(self.file.text(strip_casts(node)) in self.function.parameters for node in arguments(call))

    def _called(self, call: Node) -> str:
        callee = call.child_by_field_name("function")
        if callee is None:
            return ""
        if callee.type == "field_expression":
            callee = callee.child_by_field_name("field")
        return self.file.text(callee).rsplit("::", 1)[-1]

    def _after_release(self) -> Iterator[Node]:
        """What has an effect between a Release and the end of the function."""
        for release in self.releases:
            for node in self._following(statement_of(release.node)):
                for part in walk(node):
                    if part.type in ("call_expression", "delete_expression", "throw_statement", "new_expression"):
                        yield part
                    elif self._changes_more_than_locals(part):
                        yield part

    def _following(self, statement: Node) -> Iterator[Node]:
        """Statements that may run after this one; where the order is not plain, more than that."""
        node = statement
        while node is not None and node != self.function.body:
            following = node.next_named_sibling
            while following is not None:
                if following.type in ("else_clause", "catch_clause"):
                    break
                yield following
                if following.type == "return_statement":
                    return
                if following.type == "goto_statement":
                    yield from self._from_labels(following)
                    return
                if following.type in ("break_statement", "continue_statement"):
                    node = self._left_by(following)
                    break
                following = following.next_named_sibling
            node = node.parent if node != self.function.body else None

    def _left_by(self, jump: Node) -> Node:
        """The loop or the switch that a `break` or `continue` is of."""
        node = jump
        while node != self.function.body and node.type not in (*LOOPS, "switch_statement"):
            node = node.parent
        return node

    def _from_labels(self, jump: Node) -> Iterator[Node]:
        label = jump.child_by_field_name("label")
        for node in walk(self.function.body):
            if node.type == "labeled_statement" and label is not None:
                if self.file.text(node.child_by_field_name("label")) == self.file.text(label):
                    if node.start_byte > jump.start_byte:  # those behind it in the text were looked at, or are loops
                        yield node
                        yield from self._following(node)

    def _changes_more_than_locals(self, node: Node) -> bool:
        if node.type == "assignment_expression":
            target = node.child_by_field_name("left")
        elif node.type == "update_expression":
            target = node.child_by_field_name("argument")
        else:
            return False
        return target is None or target.type != "identifier" or self.file.text(target) not in self._own

    @property
    def _own(self) -> "set[str]":
        return {*self.function.locals, *self.function.parameters}

    def notes(self) -> Iterator[str]:
        """What is right but worth knowing."""
        for node in walk(self.function.body):
            if node.type == "call_expression" and node.end_byte <= self.statement.start_byte:
                if ALLOCATES.search(self._called(node)):
                    yield f"on failure what {self._called(node)} gave in line {self.file.span(node).line} is leaked"
        for node, name in self._calls(self.statement.end_byte):
            if FREES.search(name) and self._frees_what_was_there(node):
                yield f"on failure {name} in line {self.file.span(node).line} is not called: a leak, at the very end"

    def _frees_what_was_there(self, call: Node) -> bool:
        """Not what the pair itself has made or taken. What is an argument of another call gives, and frees nothing."""
        if call.parent.type == "argument_list":
            return False
        freed = self._freed(call)
        return not freed or not any(
            node.start_byte >= self.statement.end_byte and node.end_byte <= call.start_byte and self._gets(node, freed)
            for node in walk(self.function.body)
        )

    def _freed(self, call: Node) -> str:
        given = arguments(call) if call.type == "call_expression" else call.named_children
        return self.file.text(strip_casts(given[0])) if given else ""

    def _gets(self, node: Node, name: str) -> bool:
        """The variable has another value from here on, or there is one reference more to it."""
        if node.type == "assignment_expression":
            return self.file.text(node.child_by_field_name("left")) == name
        if node.type == "init_declarator":
            return self.file.text(node.child_by_field_name("declarator")).lstrip("*& ") == name
        if node.type != "call_expression":
            return False
        given = [self.file.text(strip_casts(argument)) for argument in arguments(node)]
        return f"&{name}" in given or (name in given and bool(TAKES.search(self._called(node))))

    # --- the edits

    @property
    def _failed(self) -> str:
        """The condition, if it is not that the variable is NULL."""
        return ""

    def edits(self, view: str, leave: List[str]) -> Iterator[Edit]:
        yield from self._retype()
        call = self.ensure.node
        yield Edit(call.start_byte, call.end_byte, f"{ENSURE}({view})")
        yield self._test(leave)
        for release in self.releases:
            callee = release.node.child_by_field_name("function")
            yield Edit(callee.start_byte, callee.end_byte, RELEASE)

    def _retype(self) -> Iterator[Edit]:
        kind, name = self._declaration.child_by_field_name("type"), self._declarators()[0]
        if self.file.text(kind) != "auto":
            yield Edit(kind.start_byte, kind.end_byte, "PyThreadStateToken")
            yield Edit(name.start_byte, name.start_byte, "*")

    def _test(self, leave: List[str]) -> Edit:
        data, end = self.file.data, self.statement.end_byte
        null = "nullptr" if self.file.language == "cpp" and b"nullptr" in data else "NULL"
        at = edits.after_line(data, end)
        failed = self._failed or f"{self.key} == {null}"
        if at is None:  # more code on the same line
            return Edit(end, end, f" if ({failed}) {{ {' '.join(leave)} }}")
        indent = edits.indentation(data, self.statement.start_byte)
        level = edits.unit(indent, edits.indentation(data, self.statement.parent.end_byte - 1))
        lines = [f"if ({failed}) {{", *("\t" + line for line in leave), "}"]
        line_end = edits.newline(data, at)
        return Edit(at, at, "".join(line_end + line for line in edits.indented(lines, indent, level)))


def what(block: Node) -> str:
    return "conditional compilation" if block.type.startswith("preproc_") else f"a construct ({block.type})"


def statement_of(node: Node) -> Node:
    while node.parent is not None and node.parent.type not in (
        "compound_statement", "if_statement", "else_clause", "while_statement", "do_statement", "for_statement",
        "case_statement", "labeled_statement", "for_range_loop", "switch_statement",
    ) and not node.parent.type.startswith("preproc_"):  # fmt: skip
        node = node.parent
    return node
