"""A class of C++ whose constructor attaches and whose destructor releases: it gets a token, and each user a test.

A constructor cannot return, so all users have to be seen: local variables, each in a function that could be migrated.
It is all or nothing.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from ..check import ctree, project
from ..check.ctree import CFile, Event, Function, Kind, Node, arguments, declared, walk
from ..check.model import Edit, Span
from ..check.project import Project
from ..check.sources import Item
from . import edits, pair
from .decisions import Decisions
from .macro_body import MacroChange
from .model import Asked, Outcome, Refused, Site, shown_name
from .pair import ENSURE, RELEASE
from .scoped import Scoped

_HEADERS = (".h", ".hh", ".hpp", ".hxx", ".h++", ".inl", ".inc")


class Use(Scoped):
    """A variable of the class."""

    def edits(self, view: str, leave: List[str]) -> Iterator[Edit]:
        yield self._test(leave)


@dataclasses.dataclass
class _Class:
    """The parts of the class that change."""

    node: Node
    member: Node
    """The declaration of the state."""
    call: Node
    """PyGILState_Ensure()"""
    destructor: Function
    release: Node
    """The statement with PyGILState_Release."""


class Raii:
    """One such class, by its constructor."""

    def __init__(
        self,
        whole: Project,
        items: Dict[str, Item],
        others: List[Item],
        decisions: Decisions,
        ignored: Callable[[Span], bool],
    ) -> None:
        self.whole = whole
        self.items = items
        self.others = others
        self.decisions = decisions
        self.ignored = ignored

    def sites(self, constructor: Function, ensure: Event, view: Callable[[str], str]) -> List[Site]:
        """The class and all its users, migrated or asked; raises Refused."""
        self.file, self.name = constructor.file, constructor.owner
        if self.ignored(self.file.span(ensure.node)):
            raise Refused("by a comment: pep788: ignore")
        if self.decisions.of(constructor).skip:
            raise Refused(f"by decision: {self.decisions.of(constructor).skip}")
        found = self._class(constructor, ensure)
        users = list(self._users(found.node))
        if not users:
            raise self._refused("no user of it was found")
        questions: List[Optional[Asked]] = []
        leaves: List[List[str]] = []
        for function, use in users:
            question, leave = self._judge(function, use)
            questions.append(question)
            leaves.append(leave)
        first = self._ask(constructor, view)
        own = (self.file.span(ensure.node), shown_name(constructor))
        if first is not None or any(questions):
            return [self._asked(first, *own), *(self._asked(q, *self._place(u)) for q, u in zip(questions, users))]
        expression = view(self.file.path)
        change = MacroChange({self.file.path: list(self._edits(found, expression))})
        note = f"a class that holds a token: its {len(users)} users test it"
        sites = [Site(*own, Outcome.MIGRATED, notes=(note,), view=expression, macros=change)]
        for user, leave in zip(users, leaves):
            notes, changes = tuple(user[1].notes()), tuple(user[1].edits("", leave))
            migrated = Site(*self._place(user), Outcome.MIGRATED, notes=notes, edits=changes, view=expression)
            sites.append(dataclasses.replace(migrated, macros=change))
        return sites

    def _refused(self, reason: str) -> Refused:
        return Refused(f"a constructor cannot report failure, and the class {self.name} cannot be changed: {reason}")

    def _place(self, user: Tuple[Function, Use]) -> Tuple[Span, str]:
        function, use = user
        return function.file.span(use.statement), shown_name(function)

    def _asked(self, own: Optional[Asked], span: Span, name: str) -> Site:
        return (own or Asked(f"the class {self.name} changes with all its users")).site(span, name)

    def _ask(self, constructor: Function, view: Callable[[str], str]) -> Optional[Asked]:
        questions: List[Asked] = []
        pair.or_ask(lambda: view(self.file.path), questions)
        if self.file.path.lower().endswith(_HEADERS) and not self.decisions.of(constructor).accept:
            key = shown_name(constructor)
            questions.append(
                Asked(
                    f"is {self.name} used outside of this tree? Its users would have to test it",
                    f'accept = true under [callbacks."{key}"], if it is not',
                )
            )
        if not questions:
            return None
        options = dict.fromkeys(option for question in questions for option in question.options)
        return Asked(" And ".join(question.reason for question in questions), *options)

    # --- the class

    def _class(self, constructor: Function, ensure: Event) -> _Class:
        node = constructor.node.parent.parent if constructor.node.parent.type == "field_declaration_list" else None
        if node is None or node.type not in ctree.TYPES:
            raise self._refused("its constructor is not in it")
        if any(child.type == "base_class_clause" for child in node.children):
            raise self._refused("it has a base")
        member: List[Node] = []
        destructors: List[Function] = []
        functions = {f.node.id: f for f in self.file.functions}
        for child in node.child_by_field_name("body").named_children:
            if child.type in ("comment", "access_specifier") or child == constructor.node:
                continue
            if any(part.type == "delete_method_clause" for part in child.children):
                continue
            if child.type == "field_declaration" and declared(self.file, child) == [(ensure.key, "PyGILState_STATE")]:
                member.append(child)
            elif child.type == "function_definition" and child.id in functions and functions[child.id].is_destructor:
                destructors.append(functions[child.id])
            elif not self._is_deleted(child):
                raise self._refused(f"it has more than a state, in line {self.file.span(child).line}")
        if len(member) != 1 or len(destructors) != 1 or len(member[0].children) != 3:
            raise self._refused(f"{ensure.key} is no plain member, or there is no destructor")
        if constructor.parameters or not self._only_ensures(constructor, ensure):
            raise self._refused("its constructor does more than PyGILState_Ensure")
        release = self._release(destructors[0], ensure.key)
        if len(re.findall(rb"\b%b\b" % ensure.key.encode(), node.text)) != 3:
            raise self._refused(f"{ensure.key} is used otherwise")
        return _Class(node, member[0], ensure.node, destructors[0], release)

    def _is_deleted(self, child: Node) -> bool:
        return re.search(rb"=\s*delete\s*;?\s*$", child.text) is not None

    def _only_ensures(self, constructor: Function, ensure: Event) -> bool:
        statements = [node for node in constructor.body.named_children if node.type != "comment"]
        if constructor.body.start_byte <= ensure.start:
            is_alone = len(statements) == 1 and statements[0].type == "expression_statement"
            parent = ensure.node.parent
            return is_alone and parent.type == "assignment_expression" and parent.parent == statements[0]
        initializers = [n for n in walk(constructor.node) if n.type == "field_initializer"]
        return not statements and len(initializers) == 1 and ensure.node.parent.parent == initializers[0]

    def _release(self, destructor: Function, key: str) -> Node:
        statements = [node for node in destructor.body.named_children if node.type != "comment"]
        releases = destructor.of(Kind.RELEASE)
        if len(statements) != 1 or len(releases) != 1 or releases[0].node.parent != statements[0]:
            raise self._refused("its destructor does more than PyGILState_Release")
        if releases[0].key != key or releases[0].macro is not None or len(arguments(releases[0].node)) != 1:
            raise self._refused("its destructor releases something else")
        return statements[0]

    # --- the users

    def _users(self, own: Node) -> Iterator[Tuple[Function, Use]]:
        word = re.compile(rb"\b%b\b" % self.name.encode())
        for item in self.others:
            if word.search(item.data):
                raise self._refused(f"it is in {item.path}, too")
        parsed = {file.path: file for file in self.whole.files}
        for path, item in self.items.items():
            if word.search(item.data):
                try:
                    file = parsed.get(path) or project.parse_c(item, self.whole.macros)
                except ctree.TooDeep:
                    raise self._refused(f"it is in {path}, too") from None
                functions = list(file.functions)
                if path in parsed:
                    functions += [f for f in self.whole.functions if f.file is file and f.is_lambda]
                else:
                    functions += [inner for f in file.functions for inner in ctree.add_events(f, self.whole.macros)]
                yield from self._users_in(file, functions, own)

    def _users_in(self, file: CFile, functions: List[Function], own: Node) -> Iterator[Tuple[Function, Use]]:
        known = set()
        for node in walk(file.root):
            is_name = node.type in ("type_identifier", "identifier", "namespace_identifier") or not node.named_children
            if not is_name or file.text(node) != self.name:
                continue
            if file is self.file and own.start_byte <= node.start_byte < own.end_byte:
                known.add(node.start_byte)
                continue
            top = node
            while top.parent is not None and top.parent.type == "qualified_identifier":
                top = top.parent
            around = [f for f in functions if f.body.start_byte <= node.start_byte < f.body.end_byte]
            where = f"{file.path}:{file.span(node).line}"
            if node.type != "type_identifier" or top.parent.type != "declaration" or not around:
                raise self._refused(f"it is used otherwise in {where}")
            function = min(around, key=lambda f: int(f.body.end_byte - f.body.start_byte))
            known.add(node.start_byte)
            use = Use(self.whole, function, Event(Kind.SCOPED_ACQUIRE, self.name, top.parent))
            try:
                pair.refuse_no_return(function)
                use.refuse_unseen()
            except Refused as error:
                raise self._refused(f"{error.reason} ({where})") from None
            if any(child.type == "storage_class_specifier" for child in top.parent.children):
                raise self._refused(f"it is static in {where}")
            yield function, use
        text = file.data
        for found in re.finditer(rb"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|\b%b\b" % self.name.encode(), text, re.S):
            if found.group() == self.name.encode() and found.start() not in known:
                line = text.count(b"\n", 0, found.start()) + 1
                raise self._refused(f"it is used otherwise in {file.path}:{line}")

    def _judge(self, function: Function, use: Use) -> Tuple[Optional[Asked], List[str]]:
        decision = self.decisions.of(function)
        if decision.skip or self.ignored(function.file.span(use.statement)):
            raise self._refused(f"{shown_name(function)} is to stay")
        if function.is_constructor:
            raise self._refused(f"it is used in a constructor, in line {function.file.span(use.statement).line}")
        questions: List[Asked] = []
        use.ask_of_failure(decision, questions)
        leave = pair.or_ask(lambda: pair.leave_statements(function, decision, self.decisions), questions)
        if not questions:
            return None, leave or []
        options = dict.fromkeys(option for question in questions for option in question.options)
        return Asked(" And ".join(question.reason for question in questions), *options), []

    # --- the edits

    def _edits(self, found: _Class, view: str) -> Iterator[Edit]:
        kind, name = found.member.child_by_field_name("type"), found.member.child_by_field_name("declarator")
        yield Edit(kind.start_byte, kind.end_byte, "PyThreadStateToken")
        yield Edit(name.start_byte, name.start_byte, "*")
        yield Edit(found.call.start_byte, found.call.end_byte, f"{ENSURE}({view})")
        data, release = self.file.data, found.release
        null = "nullptr" if b"nullptr" in data else "NULL"
        key = self.file.text(name)
        text = f"if ({key} != {null}) {{ {RELEASE}({key}); }}"
        yield Edit(release.start_byte, release.end_byte, text)
        node = found.destructor.node
        line_end = edits.newline(data, node.end_byte)
        operator = f"explicit operator bool() const {{ return {key} != {null}; }}"
        at = edits.after_line(data, node.end_byte)
        if at is None:
            yield Edit(node.end_byte, node.end_byte, f" {operator}")
        else:
            yield Edit(at, at, f"{line_end}{edits.indentation(data, node.start_byte)}{operator}")
