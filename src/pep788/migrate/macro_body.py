"""Macros that do more than a pair can be opened for: rewritten where they are defined.

The macro with the Ensure gets the test.  Where its uses return the same on failure, that is written into it, else into
the macros around it, else it becomes an argument.  All uses in the tree have to be seen, each with its function, and
each of them has to be one that could be migrated: it is all or nothing.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

from ..check import ctree
from ..check.ctree import CFile, Event, Function, Kind, Macro
from ..check.expand import TOKEN, CannotExpand, Expanded, Expander, Use, arguments_at
from ..check.model import Edit, Span
from ..check.project import Project
from ..check.sources import Item
from . import edits, pair
from .decisions import Decisions
from .model import Asked, Outcome, Refused, Site, shown_name
from .pair import ENSURE, RELEASE, Pair

_OLD_ENSURE, _OLD_RELEASE = "PyGILState_Ensure", "PyGILState_Release"
ARGUMENT = "too_late"
_HEADERS = (".h", ".hh", ".hpp", ".hxx", ".h++", ".inl", ".inc")
_HEAD, _TAIL = "void f(void) {", ";}"


@dataclasses.dataclass(frozen=True)
class _Place:
    """One use of a macro of the group in one function; `leave` is what is returned there."""

    path: str
    at: int
    end: int
    name: str
    function: Function


@dataclasses.dataclass
class MacroChange:
    """The edits of definitions, by path; those of uses are in the sites."""

    changes: Dict[str, List[Edit]]


def lockers(whole: Project, name: str) -> List[str]:
    """The macros with the Ensure itself that a macro leads to."""
    return [n for n in sorted({name, *whole.macros[name].through}) if _has(whole.macros[n].body, _OLD_ENSURE)]


def _has(body: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", body) is not None


class Group:
    """One macro with an Ensure, and all macros and functions that use it."""

    def __init__(self, whole: Project, items: Dict[str, Item], decisions: Decisions, expander: Expander) -> None:
        self.whole = whole
        self.items = items
        self.decisions = decisions
        self.expander = expander
        self.definitions = expander.definitions

    def sites(self, locker: str, view: Callable[[str], str], ignored: Callable[[Span], bool]) -> List[Site]:
        """All uses, migrated or asked; raises Refused, for the group as a whole."""
        self.locker, self.ignored = locker, ignored
        self.names = self._around({locker})
        try:
            wanted = self.names | self._around(self._all_closers())
            self.expanded = [(file, self.expander.all_of(file, wanted)) for file in self.whole.files]
        except CannotExpand as error:
            raise self._refused(str(error)) from None
        self.closers = self._closers()
        self._refuse_definitions()
        self._refuse_unseen()
        values, questions, notes = self._judge()
        views = {path: view(path) for path in sorted({place.path for place in values})}
        if len(set(views.values())) != 1:
            raise self._refused("its uses need different views")
        self._ask_header(questions)
        if any(questions.values()):
            return [self._asked(place, questions) for place in questions]
        try:
            return self._migrated(values, notes, next(iter(views.values())))
        except edits.Overlap:
            raise self._refused("its definitions are in each other's way") from None

    def _refused(self, reason: str) -> Refused:
        return Refused(f"the macro {self.locker} itself cannot be changed: {reason}")

    # --- which macros, and which uses of them

    def _around(self, inner: Set[str]) -> Set[str]:
        """These macros and those that use them."""
        found = set(inner)
        while True:
            more = {
                name
                for name, macros in self.definitions.items()
                if name not in found and any(_mentions(macro.body, found) for macro in macros)
            }
            if not more:
                return found
            found |= more

    def _closers(self) -> Set[str]:
        """The macros with a Release that are used where the Ensure is."""
        used: Set[str] = set()
        for _, variants in self.expanded:
            for expanded in variants:
                functions = {id(f): f for f in map(expanded.function_of, self._uses(expanded, self.names)) if f}
                for function in functions.values():
                    inside = [use.name for use in expanded.uses if expanded.function_of(use) is function]
                    used |= {name for name in self._all_closers() if not self._around({name}).isdisjoint(inside)}
        return used

    def _all_closers(self) -> Set[str]:
        return {n for n, macros in self.definitions.items() if any(_has(m.body, _OLD_RELEASE) for m in macros)}

    def _uses(self, expanded: Expanded, names: Set[str]) -> List[Use]:
        return [use for use in expanded.uses if use.name in names]

    @property
    def _all(self) -> Set[str]:
        return self.names | self._around(self.closers)

    def _refuse_definitions(self) -> None:
        opening = [m for m in self.definitions[self.locker] if _has(m.body, _OLD_ENSURE)]
        if len(opening) != 1:
            raise self._refused("it has several definitions with an Ensure")
        self.opening = opening[0]
        if self.ignored(self.opening.file.span(self.opening.node)):
            raise self._refused("it is to be ignored, by a comment")
        for name in {self.locker, *self.closers}:
            for macro in self.definitions[name]:
                if "PyGILState" not in macro.body and macro.body.strip():
                    raise self._refused(f"{name} has another definition")
        if any(_mentions(macro.body, {ARGUMENT}) for name in self._all for macro in self.definitions[name]):
            raise self._refused(f"{ARGUMENT} is used in it")

    def _refuse_unseen(self) -> None:
        """Each place where one of the names is has to be a definition, a use in a known function, or dead."""
        names = self._all
        for file, variants in self.expanded:
            known = {use.at for expanded in variants for use in expanded.uses if expanded.function_of(use) is not None}
            alive = file.root.text
            for found in TOKEN.finditer(file.data.decode("latin-1")):
                at = found.start()
                if found.group("name") not in names or at in known or ctree.in_directive(file.data, at):
                    continue
                if not alive[at : at + 1].strip():
                    continue  # not compiled on any version
                where = f"{file.path}:{file.span(_Bytes(at, found.end())).line}"
                raise self._refused(f"{found.group('name')} in {where} is in no function that was understood")

    # --- the functions

    def _judge(self) -> Tuple[Dict[_Place, str], Dict[_Place, Optional[Asked]], Dict[_Place, Tuple[str, ...]]]:
        """What each use returns on failure, what is to be asked, and what is worth knowing."""
        values: Dict[_Place, str] = {}
        questions: Dict[_Place, Optional[Asked]] = {}
        notes: Dict[_Place, Tuple[str, ...]] = {}
        for file, variants in self.expanded:
            for expanded in variants:
                self._refuse_alone(expanded)
                for use, function in self._opening_uses(expanded):
                    place = _Place(file.path, use.at, use.end, use.name, function)
                    place = next((p for p in values if (p.path, p.at) == (file.path, use.at)), place)
                    if self.ignored(self._span(place)):
                        raise self._refused(f"{function.name} is to be ignored, by a comment")
                    value, question, found = self._judge_use(expanded, function, use)
                    if values.setdefault(place, value) != value:
                        raise self._refused(f"{function.name} returns several types")
                    questions[place] = questions.get(place) or question
                    notes[place] = found
        return values, questions, notes

    def _refuse_alone(self, expanded: Expanded) -> None:
        """A macro that only releases, in a function where none of the group takes."""
        opened = {id(function) for _, function in self._opening_uses(expanded)}
        for use in self._uses(expanded, self._all):
            function = expanded.function_of(use)
            if function is not None and id(function) not in opened:
                raise self._refused(f"{function.name} uses {use.name} alone")

    def _opening_uses(self, expanded: Expanded) -> Iterator[Tuple[Use, Function]]:
        for use in self._uses(expanded, self.names):
            function = expanded.function_of(use)
            if function is not None:
                yield use, function

    def _judge_use(
        self, expanded: Expanded, function: Function, use: Use
    ) -> Tuple[str, Optional[Asked], Tuple[str, ...]]:
        decision = self.decisions.of(function)
        if decision.skip:
            raise self._refused(f"{shown_name(function)} is to stay, by decision")
        if decision.before or decision.view:
            raise self._refused(f"{shown_name(function)} has a decision (before, view) that a macro has no place for")
        site = self._analyse(expanded, function, use)
        asked: List[Asked] = []
        site.ask_of_failure(decision, asked)
        leave = pair.or_ask(lambda: pair.leave_statements(function, decision, self.decisions), asked)
        question = None
        if asked:
            options = [option for one in asked for option in one.options if not option.startswith("before")]
            question = Asked(" And ".join(one.reason for one in asked), *dict.fromkeys(options))
        value = leave[0][len("return") :].strip().rstrip(";") if leave else ""
        return value, question, tuple(site.notes())

    def _analyse(self, expanded: Expanded, function: Function, use: Use) -> Pair:
        """The pair as it is when all is expanded."""
        own = self.expander.alone(expanded)
        ensures = [e for e in function.of(Kind.ENSURE) if use.start <= e.start < use.stop]
        if len(ensures) != 1:
            raise self._refused(f"{function.name} uses it in a way that is not understood")
        ensure = ensures[0]
        try:
            pair.refuse_kind(own, function, ensure)
            site = Pair(own, function, ensure)
            site.refuse_unseen(lambda _: None)
        except Refused as error:
            raise self._refused(f"{function.name}: {error.reason}") from None
        self._refuse_mixed(expanded, function, site)
        return site

    def _refuse_mixed(self, expanded: Expanded, function: Function, site: Pair) -> None:
        """The pair's Releases are in macros of the group, and theirs in this function are of such pairs."""
        closing = [use for use in self._uses(expanded, self._all) if expanded.function_of(use) is function]

        def is_inside(event: Event) -> bool:
            return any(use.start <= event.start < use.stop for use in closing)

        if not all(map(is_inside, site.releases)):
            raise self._refused(f"{function.name} calls PyGILState_Release without a macro")
        keys = {event.key for event in function.of(Kind.ENSURE) if is_inside(event)}
        if any(is_inside(event) and event.key not in keys for event in function.of(Kind.RELEASE)):
            raise self._refused(f"{function.name} releases what another macro has taken")

    def _ask_header(self, questions: Dict[_Place, Optional[Asked]]) -> None:
        """Others may use a macro of a header."""
        macro = self.opening
        if not macro.file.path.lower().endswith(_HEADERS) or not questions:
            return
        decision = self.decisions.callbacks.get(self.locker)
        if decision is not None and decision.accept:
            self.decisions.used.add(self.locker)
            return
        line = macro.file.span(macro.node).line
        first = next(iter(questions))
        asked = questions[first]
        question = f"is {self.locker} ({macro.file.path}:{line}) used outside of this tree? It would change"
        options = (*(asked.options if asked else ()), f'accept = true under [callbacks."{self.locker}"], if it is not')
        questions[first] = Asked(" And ".join(filter(None, [asked.reason if asked else "", question])), *options)

    def _asked(self, place: _Place, questions: Dict[_Place, Optional[Asked]]) -> Site:
        own = questions[place]
        if own is None:
            other = next(p for p in questions if questions[p] is not None)
            line = self._span(other).line
            own = Asked(f"the macro {self.locker} changes with all its uses: see {other.path}:{line}")
        return own.site(self._span(place), shown_name(place.function))

    def _span(self, place: _Place) -> Span:
        return edits.span(place.path, self.items[place.path].data, place.at, place.end)

    # --- the edits

    def _migrated(self, values: Dict[_Place, str], notes: Dict[_Place, Tuple[str, ...]], view: str) -> List[Site]:
        returned = self._returned(values)
        open_names = {name for name in self.names if len(returned[name]) > 1}
        changes: Dict[str, List[Edit]] = {}
        self._change_opening(changes, view, returned[self.locker], self.locker in open_names)
        for name in sorted(self.closers):
            for macro in self.definitions[name]:
                self._change_closing(changes, macro)
        for name in sorted(open_names):
            self._add_parameter(changes, name)
        for name in sorted(self.names):
            for macro in self.definitions[name]:
                self._pass_on(changes, macro, open_names, ARGUMENT if name in open_names else min(returned[name]))
        for path, found in changes.items():
            edits.apply(self.items[path].data, found)
        change = MacroChange(changes)
        sites = []
        for place in values:
            own = tuple(self._argument(place, values[place])) if place.name in open_names else ()
            line = self.opening.file.span(self.opening.node).line
            note = f"by the macro {self.locker} ({self.opening.file.path}:{line}), which is rewritten with all its uses"
            found_notes = (note, *notes[place])
            span, function = self._span(place), shown_name(place.function)
            sites.append(Site(span, function, Outcome.MIGRATED, notes=found_notes, edits=own, view=view, macros=change))
        return sites

    def _returned(self, values: Dict[_Place, str]) -> Dict[str, Set[str]]:
        """The values by macro, those of the macros around it included."""
        found: Dict[str, Set[str]] = {name: set() for name in self.names}
        for place, value in values.items():
            for name in self.names:
                if name == place.name or place.name in self._around({name}):
                    found[name].add(value)
        unused = sorted(name for name, known in found.items() if not known)
        if unused:
            raise self._refused(f"{unused[0]} is not used in this tree, so what it is to return is not known")
        return found

    def _change_opening(self, changes: Dict[str, List[Edit]], view: str, values: Set[str], is_open: bool) -> None:
        macro = self.opening
        base, text = _raw(macro)
        wrapped = (_HEAD + text + _TAIL).encode("latin-1")
        file = CFile(macro.file.path, wrapped, wrapped, macro.file.language)
        functions = [f for f in file.functions if f.body is not None]
        if len(functions) != 1:
            raise self._refused("its replacement is no whole statements")
        ctree.add_events(functions[0], {})
        ensures = functions[0].of(Kind.ENSURE)
        if len(ensures) != 1:
            raise self._refused("it has several Ensures")
        site = Pair(Project(files=[file], known_in={file.path: {}}), functions[0], ensures[0])
        if len(site._declarators()) != 1 or not Pair._fits_place(site):
            raise self._refused("the state is not declared in it")
        shift = base - len(_HEAD)
        found = [Edit(e.start + shift, e.end + shift, e.text) for e in site._retype()]
        call = ensures[0].node
        found.append(Edit(call.start_byte + shift, call.end_byte + shift, f"{ENSURE}({view})"))
        value = ARGUMENT if is_open else min(values)
        leave = f"return {value};" if value else "return;"
        null = "nullptr" if macro.file.language == "cpp" and b"nullptr" in macro.file.data else "NULL"
        test = f"if ({site.key} == {null}) {{ {leave} }}"
        end = min(site.statement.end_byte, len(_HEAD) + len(text.rstrip()))
        if wrapped[end - 1 : end] != b";":
            test = "; " + test
            found.append(Edit(end + shift, end + shift, test))
        else:
            found.append(Edit(end + shift, end + shift, self._new_line(macro, end + shift) + test))
        changes.setdefault(macro.file.path, []).extend(found)

    def _new_line(self, macro: Macro, at: int) -> str:
        """A new line of a macro that has several; what is behind it on the old one goes along."""
        data = macro.file.data
        if edits.line_start(data, at) <= macro.node.start_byte:
            return " "
        return " \\" + edits.newline(data, at) + edits.indentation(data, at)

    def _change_closing(self, changes: Dict[str, List[Edit]], macro: Macro) -> None:
        base, text = _raw(macro)
        for found in TOKEN.finditer(text):
            if found.group("name") == _OLD_RELEASE:
                edit = Edit(base + found.start(), base + found.end(), RELEASE)
                changes.setdefault(macro.file.path, []).append(edit)

    def _add_parameter(self, changes: Dict[str, List[Edit]], name: str) -> None:
        """To all definitions, those that no version compiles included."""
        define = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+%b\b(?P<list>\([^)]*\))?" % name.encode(), re.MULTILINE)
        for path, item in self.items.items():
            for found in define.finditer(item.data):
                if found.group("list") is None:
                    edit = Edit(found.end(), found.end(), f"({ARGUMENT})")
                else:
                    empty = not found.group("list")[1:-1].strip()
                    edit = Edit(found.end() - 1, found.end() - 1, ARGUMENT if empty else f", {ARGUMENT}")
                    if b"..." in found.group("list"):
                        raise self._refused(f"{name} has any number of arguments")
                changes.setdefault(path, []).append(edit)

    def _pass_on(self, changes: Dict[str, List[Edit]], macro: Macro, open_names: Set[str], value: str) -> None:
        """In the replacement of a macro around one that has got an argument."""
        base, text = _raw(macro)
        for found in TOKEN.finditer(text):
            if found.group("name") in open_names and found.group("name") != macro.name:
                edit = _with_argument(text, found.end(), self.definitions[found.group("name")][0], value)
                if edit is None:
                    raise self._refused(f"{macro.name} uses it in a way that is not understood")
                changes.setdefault(macro.file.path, []).append(Edit(base + edit.start, base + edit.end, edit.text))

    def _argument(self, place: _Place, value: str) -> Iterator[Edit]:
        text = self.items[place.path].data.decode("latin-1")
        edit = _with_argument(text, place.at + len(place.name), self.definitions[place.name][0], value)
        if edit is None:
            raise self._refused(f"{place.function.name} uses it in a way that is not understood")
        if edit.text:  # a void function gives an empty argument, which is there
            yield edit


@dataclasses.dataclass(frozen=True)
class _Bytes:
    """Stands in for a node."""

    start_byte: int
    end_byte: int


def _mentions(body: str, names: Set[str]) -> bool:
    return any(found.group("name") in names for found in TOKEN.finditer(body))


def _with_argument(text: str, at: int, macro: Macro, value: str) -> Optional[Edit]:
    """One more argument for the use that ends its name here."""
    if macro.parameters is None:
        return Edit(at, at, f"({value})")
    opening = re.compile(r"\s*\(").match(text, at)
    end, given = arguments_at(text, opening.end() - 1) if opening is not None else (-1, [])
    if end < 0:
        return None
    last = end - 1
    while text[last - 1].isspace() and given:
        last -= 1
    return Edit(last, last, f", {value}" if given else value)


def _raw(macro: Macro) -> Tuple[int, str]:
    """Where the replacement begins in its file, and its text, of the same length: comments and line ends are blanks."""
    base = int(macro.node.child_by_field_name("value").start_byte)
    text = macro.file.data[base:].decode("latin-1")
    result: List[str] = []
    at = 0
    for found in re.compile(TOKEN.pattern + r"|\\\r?\n|\n", re.DOTALL).finditer(text):
        token = found.group()
        if token == "\n":
            return base, "".join([*result, text[at : found.start()]])
        if token.startswith(("//", "/*", "\\")):
            result += [text[at : found.start()], " " * len(token)]
            at = found.end()
    return base, "".join([*result, text[at:]])

