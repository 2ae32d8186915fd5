"""Follows a function's paths: which states, tokens and guards are held at each exit, and where it is attached.

Sets of small states go through the statements; loops and `goto` are repeated until nothing new appears.  Where a
path cannot be told from another (`if (x) Release`), or a variable is used in a way that is not understood, what it
holds is dropped: the checker rather says nothing than something it cannot defend.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Set, Tuple

from . import names, preprocessor
from .ctree import Event, Function, Kind, Macro, arguments, events_at, normal, result_variable, unquoted

Node = Any

OPENS = {Kind.ENSURE: "state", Kind.TOKEN_OPEN: "token", Kind.GUARD_OPEN: "guard"}
CLOSES = {Kind.RELEASE: "state", Kind.TOKEN_CLOSE: "token", Kind.GUARD_CLOSE: "guard"}
MOST_STATES = 256
MOST_ROUNDS = 64
MOST_STEPS = 100_000
"""Statements followed in one function, each time it is; nested loops multiply."""
_TRUE = frozenset({"1", "true", "TRUE", "True"})
_NULLS = frozenset({"NULL", "nullptr", "0", "Py_NULL", "_Py_NULL"})
_BOOLEAN = ("unary_expression", "binary_expression", "parenthesized_expression")
_MACRO = re.compile(r"[A-Z][A-Z0-9_]+")
_JUMPS = re.compile(r"\b(goto|return|throw|break|continue)\b\s*(\w*)")
_OWN_LOOP = re.compile(r"\b(?:for|while|do|switch)\b")
_LEAVING = ("return_statement", "co_return_statement", "throw_statement")
_RETURNING = re.compile(r"Py_RETURN_\w+|Py_UNREACHABLE")


class Resource(NamedTuple):
    """Something open. `site` is the byte where it was opened; `checked`: its being NULL was tested."""

    what: str
    key: str
    site: int
    checked: bool


class State(NamedTuple):
    """What one path has open, in order, what it closed, and whether it is attached (None: not known)."""

    held: Tuple[Resource, ...]
    closed: FrozenSet[int]
    attached: Optional[bool]


States = FrozenSet[State]
NOWHERE: States = frozenset()


@dataclasses.dataclass
class Exit:
    """A way out of the function with the states that take it."""

    node: Node
    states: States


class _Lost(Exception):
    """There are too many paths, or the code does not parse."""


class Flow:
    """The result: `visits` are the states in which each event is reached, `exits` the ways out."""

    def __init__(
        self, function: Function, macros: Dict[str, Macro], others: Dict[str, Optional[Macro]], taken: bool
    ) -> None:
        self.function = function
        self.file = function.file
        self.macros = macros
        self.others = others  # macros that are known and have nothing to do with this; None: they jump nowhere
        self.taken = taken  # the arms of conditional compilation that depend on something
        self.understood = False
        self.visits: Dict[Tuple[int, str], Tuple[Event, Set[State]]] = {}
        self.calls: Dict[int, Tuple[Node, Set[Optional[bool]]]] = {}
        """Every call by its first byte, and whether the thread is attached there."""
        self.exits: List[Exit] = []
        self._keys = {event.key for event in function.events if event.kind in OPENS and event.key}
        self._steps = 0
        self._orders: Dict[int, List[Tuple[Node, List[Event]]]] = {}
        self._gotos: Dict[str, States] = {}
        self._breaks: List[Set[State]] = []
        self._continues: List[Set[State]] = []
        self._handlers: List[Set[State]] = []
        self._entry_attached = True if function.called_by_python else None
        try:
            self._run()
            self.understood = True
        except (_Lost, RecursionError):
            self.exits = []

    def _run(self) -> None:
        if self.function.has_error:
            raise _Lost
        entry: States = frozenset({State((), frozenset(), self._entry_attached)})
        for _ in range(MOST_ROUNDS):
            self.exits, before = [], dict(self._gotos)
            out = self._statement(self.function.body, entry)
            if out:
                self.exits.append(Exit(self.function.body, out))
            if before == self._gotos:
                return
        raise _Lost

    # --- statements

    def _statement(self, node: Node, states: States) -> States:
        self._steps += 1
        if len(states) > MOST_STATES or self._steps > MOST_STEPS:
            raise _Lost
        if not states and not self._has_label(node):
            return states
        method = getattr(self, "_do_" + node.type, None)
        if method is not None:
            return frozenset(method(node, states))
        if node.type in preprocessor.CONDITIONALS:
            return self._conditional_compilation(node, states)
        return self._expression(node, states)

    def _has_label(self, node: Node) -> bool:
        return bool(re.search(rb"\w+\s*:", node.text))

    def _do_compound_statement(self, node: Node, states: States) -> States:
        attached = {state.attached for state in states}
        scoped = False
        for child in node.named_children:
            scoped = scoped or child.type == "declaration" and b"gil_scoped_" in child.text
            states = self._statement(child, states)
        if scoped and len(attached) == 1:  # destructors undo at the closing brace what the constructors did
            states = frozenset(state._replace(attached=next(iter(attached))) for state in states)
        return states

    def _do_if_statement(self, node: Node, states: States) -> States:
        condition = node.child_by_field_name("condition")
        states = self._expression(condition, states)
        yes = self._statement(node.child_by_field_name("consequence"), self._assume(condition, True, states))
        other = node.child_by_field_name("alternative")
        no = self._assume(condition, False, states)
        return self._join(yes, self._statement(other, no) if other is not None else no)

    def _do_else_clause(self, node: Node, states: States) -> States:
        return self._sequence(node, states)

    def _do_labeled_statement(self, node: Node, states: States) -> States:
        label = self.file.text(node.child_by_field_name("label"))
        states = states | self._gotos.get(label, NOWHERE)
        return self._sequence(node, states, skip=node.child_by_field_name("label"))

    def _sequence(self, node: Node, states: States, skip: Node = None) -> States:
        for child in node.named_children:
            if child != skip and child.type != "comment":
                states = self._statement(child, states)
        return states

    def _do_attributed_statement(self, node: Node, states: States) -> States:
        return self._sequence(node, states)

    def _do_while_statement(self, node: Node, states: States) -> States:
        return self._loop(node, states, node.child_by_field_name("condition"), None)

    def _do_for_statement(self, node: Node, states: States) -> States:
        first = node.child_by_field_name("initializer")
        if first is not None:
            states = self._expression(first, states)
        return self._loop(node, states, node.child_by_field_name("condition"), node.child_by_field_name("update"))

    def _do_for_range_loop(self, node: Node, states: States) -> States:
        states = self._expression(node.child_by_field_name("right"), states)
        return self._loop(node, states, node.child_by_field_name("right"), None, ends=True)

    def _do_do_statement(self, node: Node, states: States) -> States:
        body, condition = node.child_by_field_name("body"), node.child_by_field_name("condition")
        once = self.file.text(condition).strip("() ") in ("0", "false")
        seen, out = states, NOWHERE
        self._breaks.append(set())
        for _ in range(MOST_ROUNDS):
            self._continues.append(set())
            after = self._statement(body, seen) | frozenset(self._continues.pop())
            after = self._expression(condition, after)
            out = self._assume(condition, False, after)
            back = NOWHERE if once else self._assume(condition, True, after)
            if back <= seen:
                return self._join(out, frozenset(self._breaks.pop()))
            seen = seen | back
        raise _Lost

    def _loop(
        self, node: Node, states: States, condition: Optional[Node], update: Optional[Node], ends: bool = False
    ) -> States:
        endless = not ends and (condition is None or self.file.text(condition).strip("() ") in _TRUE)
        body = node.child_by_field_name("body")
        seen, out = states, NOWHERE
        self._breaks.append(set())
        for _ in range(MOST_ROUNDS):
            inside = self._expression(condition, seen) if condition is not None else seen
            out = NOWHERE if endless else self._assume(condition, False, inside)
            self._continues.append(set())
            after = self._statement(body, self._assume(condition, True, inside)) | frozenset(self._continues.pop())
            if update is not None:
                after = self._expression(update, after)
            if after <= seen:
                return self._join(out, frozenset(self._breaks.pop()))
            seen = self._join(seen, after) | seen
            if len(seen) > MOST_STATES:
                raise _Lost
        raise _Lost

    def _do_switch_statement(self, node: Node, states: States) -> States:
        states = self._expression(node.child_by_field_name("condition"), states)
        body = node.child_by_field_name("body")
        self._breaks.append(set())
        falling, default = NOWHERE, False
        for child in body.named_children:
            if child.type == "case_statement":
                value = child.child_by_field_name("value")
                default = default or value is None
                falling = self._sequence(child, states | falling, skip=value)
            else:
                falling = self._statement(child, falling)
        leaving = frozenset(self._breaks.pop()) | falling
        return self._join(leaving, NOWHERE if default else states)

    def _do_break_statement(self, node: Node, states: States) -> States:
        if not self._breaks:
            raise _Lost
        self._breaks[-1].update(states)
        return NOWHERE

    def _do_continue_statement(self, node: Node, states: States) -> States:
        if not self._continues:
            raise _Lost
        self._continues[-1].update(states)
        return NOWHERE

    def _do_goto_statement(self, node: Node, states: States) -> States:
        label_node = node.child_by_field_name("label")
        if label_node is None:
            raise _Lost  # a computed goto
        label = self.file.text(label_node)
        self._gotos[label] = self._gotos.get(label, NOWHERE) | states
        return NOWHERE

    def _do_return_statement(self, node: Node, states: States) -> States:
        self.exits.append(Exit(node, self._expression(node, states)))
        return NOWHERE

    _do_co_return_statement = _do_return_statement

    def _do_throw_statement(self, node: Node, states: States) -> States:
        states = self._expression(node, states)
        if self._handlers:
            self._handlers[-1].update(states)
        else:
            self.exits.append(Exit(node, states))
        return NOWHERE

    def _do_try_statement(self, node: Node, states: States) -> States:
        self._handlers.append(set(states))
        out = self._statement(node.child_by_field_name("body"), states)
        thrown = frozenset(self._handlers.pop())
        for clause in node.named_children:
            if clause.type == "catch_clause":
                out = self._join(out, self._statement(clause.child_by_field_name("body"), thrown))
        return out

    def _do_comment(self, node: Node, states: States) -> States:
        return states

    def _do_ERROR(self, node: Node, states: States) -> States:
        raise _Lost

    def _conditional_compilation(self, node: Node, states: States) -> States:
        _, negated = preprocessor.condition_key(node)
        alternative = node.child_by_field_name("alternative")
        if self.taken == negated:
            return self._statement(alternative, states) if alternative is not None else states
        heads = [node.child_by_field_name("condition"), node.child_by_field_name("name"), alternative]
        for child in node.named_children:
            if child not in heads:
                states = self._statement(child, states)
        return states

    def _do_preproc_else(self, node: Node, states: States) -> States:
        return self._sequence(node, states)

    # --- what an expression does

    def _expression(self, node: Node, states: States) -> States:
        if node.type == "expression_statement":
            left = self._leaving_macro(node, states)
            if left is not None:
                return left
        elif node.type.endswith("_statement") and node.type not in _LEAVING:
            raise _Lost  # Duff's device, __try, ...
        for child, events in self._evaluation_order(node):
            for event in events:
                states = self._apply(event, states)
            if child.type in ("identifier", "field_identifier"):
                states = self._use(child, states)
            if child.type == "call_expression":
                _, attached = self.calls.setdefault(child.start_byte, (child, set()))
                attached.update(state.attached for state in states)
                if self._never_returns(child):
                    return NOWHERE
        return states

    def _evaluation_order(self, node: Node) -> List[Tuple[Node, List[Event]]]:
        """The nodes of an expression, operands first, with what each does; those of lambdas are only names here."""
        if node.id not in self._orders:
            order: List[Node] = []
            stack = [(node, False)]
            while stack:
                current, done = stack.pop()
                if done or not current.named_child_count:
                    order.append(current)
                    continue
                stack.append((current, True))
                stack.extend((child, False) for child in reversed(current.named_children))
            order = [n for n in order if not self._inside_lambda(n, node) or n.type == "identifier"]
            if any(child.type == "compound_statement" for child in order):
                raise _Lost  # a statement expression, which may leave from within
            self._orders[node.id] = [(n, events_at(self.file, n, self.macros)) for n in order]
        return self._orders[node.id]

    def _inside_lambda(self, node: Node, top: Node) -> bool:
        if b"[" not in top.text:
            return False
        while node is not None and node != top:
            if node.type == "lambda_expression":
                return True
            node = node.parent
        return False

    def _leaving_macro(self, node: Node, states: States) -> Optional[States]:
        """`Py_RETURN_NONE;` and macros of the tree that return, jump or throw."""
        inner = node.named_children[0] if node.named_children else None
        if inner is None:
            return None
        called = inner.child_by_field_name("function") if inner.type == "call_expression" else inner
        if called is None or called.type != "identifier":
            return None
        name = self.file.text(called)
        if _RETURNING.fullmatch(name):
            if name.startswith("Py_RETURN"):
                self.exits.append(Exit(node, states))
            return NOWHERE
        macro = self.macros.get(name)
        if macro is not None and macro.leaves:
            raise _Lost
        other = self.others.get(name) if macro is None else None
        if other is not None:
            self._may_jump(other, inner, states)
        if macro is None and _MACRO.fullmatch(name) and name not in self.others:
            return frozenset(
                state._replace(held=()) for state in states
            )  # it may release, or jump to where that is done
        return None

    def _may_jump(self, macro: Macro, use: Node, states: States) -> None:
        """`VIR_PY_TUPLE_SET_GOTO(tuple, 0, value, cleanup);` goes on, or leaves the way its definition says."""
        given = [normal(self.file, argument) for argument in arguments(use)] if use.type == "call_expression" else []
        by_name = dict(zip(macro.parameters or (), given))
        for word, label in _JUMPS.findall(unquoted(macro.body)):
            if word == "goto" and label:
                label = by_name.get(label, label)
                self._gotos[label] = self._gotos.get(label, NOWHERE) | states
            elif word == "return":
                self.exits.append(Exit(use.parent, states))
            elif word == "throw" and self._handlers:
                self._handlers[-1].update(states)
            elif word == "throw":
                self.exits.append(Exit(use.parent, states))
            elif not _OWN_LOOP.search(macro.body):
                inside = self._breaks if word == "break" else self._continues
                if word in ("break", "continue") and inside:
                    inside[-1].update(states)

    def _never_returns(self, call: Node) -> bool:
        called = call.child_by_field_name("function")
        return called is not None and self.file.text(called) in names.NO_RETURN

    def _apply(self, event: Event, states: States) -> States:
        _, seen = self.visits.setdefault((event.start, event.kind.value), (event, set()))
        seen.update(states)
        return frozenset(self._step(event, state) for state in states)

    def _step(self, event: Event, state: State) -> State:
        kind = event.kind
        if kind in OPENS:
            resource = Resource(OPENS[kind], event.key, event.start, False)
            held = tuple(r for r in state.held if r.site != event.start)
            attached = state.attached if kind is Kind.GUARD_OPEN else True
            return State((*held, resource), state.closed - {event.start}, attached)
        if kind in CLOSES:
            return self._close(CLOSES[kind], event.key, state)
        if kind in (Kind.DETACH, Kind.SCOPED_RELEASE):
            return state._replace(attached=False)
        if kind in (Kind.REATTACH, Kind.SCOPED_ACQUIRE):
            return state._replace(attached=True)
        if kind in (Kind.FINALIZE, Kind.INITIALIZE):
            return State((), state.closed, None)
        if kind is Kind.USES_PYTHON and state.attached is None:
            return state._replace(attached=True)
        return state

    def _close(self, what: str, key: str, state: State) -> State:
        mine = [r for r in state.held if r.what == what and (r.key == key or not r.key)]
        attached = state.attached if what == "guard" else self._entry_attached
        if not mine:
            return state._replace(attached=attached)
        sites = {resource.site for resource in mine}
        held = tuple(r for r in state.held if r.site not in sites)
        still = any(r.what != "guard" for r in held)
        return State(held, state.closed | sites, True if still else attached)

    # --- variables and tests of them

    def _use(self, node: Node, states: States) -> States:
        """A use of a tracked variable that is not understood: give up what it holds."""
        if node.parent is not None and node.parent.type == "field_expression" and node.type == "identifier":
            return states  # the object, not the member
        whole = node.parent if node.type == "field_identifier" else node
        key = normal(self.file, whole) if whole is not None else ""
        if key not in self._keys or self._is_understood(whole):
            return states
        if self._is_assert(whole):
            return frozenset(_checked(state, key) for state in states)
        return frozenset(state._replace(held=tuple(r for r in state.held if r.key != key)) for state in states)

    def _is_understood(self, node: Node) -> bool:
        parent = node.parent
        while parent is not None and parent.type in (
            "pointer_declarator", "cast_expression", "parenthesized_expression", "reference_declarator"
        ):  # fmt: skip
            node, parent = parent, parent.parent
        if parent is None or parent.type in ("declaration", "init_declarator", "condition_clause", "if_statement"):
            return True
        if parent.type == "assignment_expression" and parent.child_by_field_name("left") == node:
            return True
        if parent.type == "argument_list" and parent.parent is not None:
            call = parent.parent
            called = call.child_by_field_name("function")
            return called is not None and self.file.text(called) in _CLOSING
        return self._is_test(node, parent)

    def _is_test(self, node: Node, parent: Node) -> bool:
        top = parent
        while top is not None and top.type in _BOOLEAN:
            if top.type == "binary_expression" and top.children[1].type not in ("&&", "||", "==", "!="):
                return False
            top = top.parent
        return top is not None and top.type in ("if_statement", "condition_clause", "while_statement", "do_statement")

    def _is_assert(self, node: Node) -> bool:
        parent = node.parent
        while parent is not None and parent.type in _BOOLEAN:
            parent = parent.parent
        call = parent.parent if parent is not None and parent.type == "argument_list" else None
        called = call.child_by_field_name("function") if call is not None else None
        return called is not None and self.file.text(called).lower() in ("assert", "py_assert", "_py_assert")

    def _assume(self, node: Optional[Node], value: bool, states: States) -> States:
        """Keep what can be when the condition has this value."""
        if node is None:
            return states
        if node.type in ("parenthesized_expression", "condition_clause"):
            inner = node.child_by_field_name("value") or (node.named_children[-1] if node.named_children else None)
            return self._assume(inner, value, states)
        if node.type == "unary_expression" and node.children[0].type == "!":
            return self._assume(node.child_by_field_name("argument"), not value, states)
        if node.type == "binary_expression":
            return self._assume_binary(node, value, states)
        key = self._tested(node)
        return self._assume_null(key, not value, states) if key else states

    def _assume_binary(self, node: Node, value: bool, states: States) -> States:
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        operator = node.children[1].type
        if operator in ("&&", "||"):
            if value == (operator == "&&"):  # both are true, or both are false
                return self._assume(right, value, self._assume(left, value, states))
            return self._assume(left, value, states) | self._assume(right, value, self._assume(left, not value, states))
        if operator in ("==", "!="):
            for side, other in ((left, right), (right, left)):
                if self.file.text(other) in _NULLS and self._tested(side):
                    return self._assume_null(self._tested(side), value == (operator == "=="), states)
        return states

    def _tested(self, node: Node) -> str:
        while node is not None and node.type == "parenthesized_expression" and node.named_children:
            node = node.named_children[0]
        if node is None:
            return ""
        if node.type == "assignment_expression":
            node = node.child_by_field_name("left")
        elif node.type == "declaration":
            found = node.child_by_field_name("value")
            return result_variable(self.file, found) if found is not None else ""
        elif node.type == "call_expression":
            return ""
        key = normal(self.file, node)
        return key if key in self._keys else ""

    def _assume_null(self, key: str, null: bool, states: States) -> States:
        if not null:
            return frozenset(_checked(state, key) for state in states)
        return frozenset(self._failed(state, key) for state in states)

    def _failed(self, state: State, key: str) -> State:
        """What was opened into this variable was not: it is NULL."""
        tokens = any(r.key == key and r.what == "token" for r in state.held)
        held = tuple(r for r in state.held if r.key != key or r.what == "state")
        return state._replace(held=held, attached=self._entry_attached if tokens else state.attached)

    def _join(self, one: States, two: States) -> States:
        """Two ways that meet: what one has closed and the other has open depends on a condition; drop it."""
        closed = {site for state in one | two for site in state.closed}
        held = {r.site for state in one | two for r in state.held}
        unclear = closed & held
        if not unclear:
            return one | two
        return frozenset(
            state._replace(held=tuple(r for r in state.held if r.site not in unclear)) for state in one | two
        )


_CLOSING = names.TOKEN_CLOSE | names.GUARD_CLOSE | names.GUARD_OPEN | names.TOKEN_OPEN | {names.RELEASE}


def _checked(state: State, key: str) -> State:
    held = tuple(r._replace(checked=True) if r.key == key else r for r in state.held)
    return state._replace(held=held)
