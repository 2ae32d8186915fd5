"""What a file says once the macros that matter are expanded: those that attach, release, or leave a function, and those
whose arguments need not be C.

Not a preprocessor: all other macros stay as they are, and where conditional compilation depends on something the file
is looked at several times, with the conditions met and not.  Lines keep their numbers.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from typing import Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

from . import ctree, names, preprocessor
from .ctree import CFile, Function, Macro, Node, span_of
from .model import Span
from .project import Project

TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|(?P<name>[A-Za-z_]\w*)", re.DOTALL)
_LEAVES = re.compile(r"\b(?:return|goto|break|continue|throw)\b|^\s*\w+\s*:(?!:)")
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(?P<word>[a-z]+)\b")
_MAKES_FUNCTIONS = re.compile(r"\)\s*\{")
MOST_VARIANTS = 12
MOST_MACROS = 100
"""One inside the other."""
MOST_BODY = 100_000
"""Characters of one expansion: macros that double each other grow without end."""


class CannotExpand(Exception):
    """The message says why."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which conditions are met: those named, by what they ask, and all others."""

    met: bool
    named: "frozenset[Tuple[str, bool]]" = frozenset()

    def value(self, key: str) -> bool:
        return dict(self.named).get(key, self.met)

    def fits(self, conditions: FrozenSet[Tuple[str, bool]]) -> bool:
        return all(self.value(key) == value for key, value in conditions)


@dataclasses.dataclass(frozen=True)
class Use:
    """A macro in the text of a file, at byte `at` up to `end`; `start` to `stop` is what became of it."""

    name: str
    at: int
    end: int
    start: int
    stop: int


class ExpandedFile(CFile):
    """The text after it; its spans are those of the file before: of the whole use for what is inside of one."""

    editable = False

    def __init__(self, before: CFile, data: bytes, masked: bytes, uses: List[Use]) -> None:
        super().__init__(before.path, data, masked, before.language)
        self._before = before
        self._uses = uses
        self._starts = [use.start for use in uses]

    def span(self, node: Node) -> Span:
        start, end = self._place(node.start_byte), self._place(max(node.end_byte - 1, node.start_byte))
        before = self._before
        return span_of(before.path, before.data, before.lines, start[0], max(end[1], start[0]))

    def _place(self, at: int) -> Tuple[int, int]:
        """The bytes in the file before that one byte is of."""
        index = bisect.bisect_right(self._starts, at) - 1
        if index < 0:
            return at, at + 1
        use = self._uses[index]
        if at < use.stop:
            return use.at, use.end
        padding = self._before.data.count(b"\n", use.at, use.end)
        place = max(at - use.stop - padding, 0) + use.end
        return place, place + 1


@dataclasses.dataclass
class Expanded:
    """A file after it; `functions` have their events."""

    file: ExpandedFile
    uses: List[Use]
    functions: List[Function]

    def is_made(self, function: Function) -> bool:
        start, end = function.node.start_byte, function.node.end_byte
        return any(use.start <= start and end <= use.stop for use in self.uses)

    def function_of(self, use: Use) -> Optional[Function]:
        for function in self.functions:
            if function.node.start_byte <= use.start and use.stop <= function.node.end_byte:
                return function
        return None


class Expander:
    """The macros of a tree; without `pairs` those that attach and release stay as they are.

    Of several definitions the one is taken that the conditions fit; `strict`: if there is not just one, none is.
    """

    def __init__(self, whole: Project, files: List[CFile], pairs: bool = True, strict: bool = False) -> None:
        self.whole = whole
        self.pairs = pairs
        self.strict = strict
        self.definitions: Dict[str, List[Macro]] = {}
        self._places: Dict[int, List[Tuple[CFile, int]]] = {}
        """Of each definition, by its identity: where this text stands."""
        self._conditions: Dict[int, List[FrozenSet[Tuple[str, bool]]]] = {}
        self._twins: Dict[int, List[Expanded]] = {}
        for file in files:
            for macro in ctree.definitions(file):
                macro = dataclasses.replace(macro, body=_whole_body(macro))
                known = self.definitions.setdefault(macro.name, [])
                same = [other for other in known if macro.body.split() == other.body.split()]
                if not same:
                    known.append(macro)
                self._places.setdefault(id(same[0] if same else macro), []).append((file, macro.node.start_byte))
        self.matter = self._matter()

    def _matter(self) -> Set[str]:
        found = set(self.whole.macros) & set(self.definitions) if self.pairs else set()
        for name, macros in self.definitions.items():
            if any(_LEAVES.search(macro.body) or _makes_strings(macro) for macro in macros):
                found.add(name)
        users: Dict[str, List[str]] = {}
        for name, macros in self.definitions.items():
            for word in {word for macro in macros for word in _words(macro.body)}:
                users.setdefault(word, []).append(name)
        waiting = list(found)
        while waiting:
            more = set(users.get(waiting.pop(), ())) - found
            found |= more
            waiting += more
        return found if self.pairs else found - set(self.whole.macros)

    def all_of(self, file: CFile, wanted: Set[str]) -> List[Expanded]:
        """The file with all conditions met, with none, and as often again as uses of `wanted` are in no other."""
        text = file.data.decode("latin-1")
        found = [self.file(file, Chosen(True)), self.file(file, Chosen(False))]
        seen = {use.at for expanded in found for use in expanded.uses}
        for token in TOKEN.finditer(text):
            if token.group("name") in wanted and token.start() not in seen and len(found) < MOST_VARIANTS:
                if not ctree.in_directive(file.data, token.start()):
                    found.append(self.file(file, Chosen(True, needed(text, token.start()))))
                    seen |= {use.at for use in found[-1].uses}
        return found

    def file(self, file: CFile, chosen: Chosen) -> Expanded:
        text, uses = self._text(resolved(file.data.decode("latin-1"), chosen), chosen)
        data = text.encode("latin-1")
        known = {} if self.pairs else self.whole.known_in[file.path]
        masked = ctree.mask(data, [*names.STATEMENT_MACROS, *known])
        new = ExpandedFile(file, data, masked, uses)
        functions = [f for f in new.functions if f.body is not None]
        for function in functions:
            functions += ctree.add_events(function, known)
        return Expanded(new, uses, functions)

    def twins(self, function: Function) -> List[Tuple[Project, Function]]:
        """The function with its macros expanded, all conditions met and none, each in a project of its own."""
        key = id(function.file)
        if key not in self._twins:
            self._twins[key] = self.all_of(function.file, set())
        place = function.file.span(function.node)  # not by the tree's own lines: masking takes line ends
        found = []
        for expanded in self._twins[key]:
            for twin in expanded.functions:  # what is in front of a function may have got into it for a macro
                if twin.name == function.name and place.line <= expanded.file.span(twin.node).line <= place.end_line:
                    found.append((self.alone(expanded), twin))
        return found

    def made(self, file: CFile) -> List[Tuple[Project, Function]]:
        """The functions that a macro is the whole of, as far as they can be followed."""
        try:
            expanded = [self.file(file, Chosen(met)) for met in (True, False)]
        except (CannotExpand, ctree.TooDeep):
            return []
        pairs = [(self.alone(one), function) for one in expanded for function in one.functions if one.is_made(function)]
        return [(project, function) for project, function in pairs if project.flows(function)]

    def alone(self, expanded: Expanded) -> Project:
        """A project of the expanded file: what it still has of macros is known."""
        path = expanded.file.path
        known = {} if self.pairs else self.whole.known_in[path]
        others = {name: macros for name, macros in self.definitions.items() if name not in known}
        others = {**{n: m for found in self.whole.others.values() for n, m in found.items()}, **others}
        return Project(files=[expanded.file], others={path: others}, known_in={path: known})

    def _text(self, text: str, chosen: Chosen) -> Tuple[str, List[Use]]:
        result: List[str] = []
        uses: List[Use] = []
        length = done = 0
        for found in TOKEN.finditer(text):
            name, at = found.group("name"), found.start()
            if name is None or name not in self.matter or at < done:
                continue
            end, given = self._use(text, found.end(), self._definition(name, chosen))
            if end < 0:
                continue
            before = text[done:at]
            body = self._body(name, given, chosen, frozenset())
            lines = text.count("\n", at, end)
            uses.append(Use(name, at, end, length + len(before), length + len(before) + len(body)))
            result += [before, body, "\n" * lines]
            length += len(before) + len(body) + lines
            done = end
        return "".join([*result, text[done:]]), uses

    def _definition(self, name: str, chosen: Chosen) -> Macro:
        known = self.definitions[name]
        if len(known) == 1:
            return known[0]
        fit = [macro for macro in known if any(map(chosen.fits, self._conditions_of(macro)))]
        if len(fit) == 1:
            return fit[0]
        if self.strict or len(known) > 2:
            raise CannotExpand(f"{name} has {len(known)} definitions")
        return known[0] if chosen.met else known[-1]

    def _conditions_of(self, macro: Macro) -> List[FrozenSet[Tuple[str, bool]]]:
        key = id(macro)
        if key not in self._conditions:
            self._conditions[key] = [needed(file.data.decode("latin-1"), at) for file, at in self._places[key]]
        return self._conditions[key]

    def _use(self, text: str, at: int, macro: Macro) -> Tuple[int, List[str]]:
        """Where the use ends, -1 if it is none, and the arguments."""
        if macro.parameters is None:
            return at, []
        opening = re.compile(r"\s*\(").match(text, at)
        if opening is None:
            return -1, []
        end, given = arguments_at(text, opening.end() - 1)
        return end, [" ".join(one.splitlines()) for one in given]

    def _body(self, name: str, given: List[str], chosen: Chosen, hidden: "frozenset[str]") -> str:
        if len(hidden) > MOST_MACROS:
            raise CannotExpand(f"{name} is reached through more than {MOST_MACROS} macros")
        macro = self._definition(name, chosen)
        text = _substituted(macro, given)
        result: List[str] = []
        done = 0
        for found in TOKEN.finditer(text):
            inner = found.group("name")
            if inner is None or inner not in self.matter or inner == name or inner in hidden or found.start() < done:
                continue
            end, inner_given = self._use(text, found.end(), self._definition(inner, chosen))
            if end < 0:
                continue
            result += [text[done : found.start()], self._body(inner, inner_given, chosen, hidden | {name})]
            done = end
            if sum(map(len, result)) > MOST_BODY:
                raise CannotExpand(f"{name} is too long when it is expanded")
        return "".join([*result, text[done:]])


def follow(whole: Project, more: List[CFile]) -> None:
    """Of the functions whose paths cannot be followed for the macros or conditionals in them: fill in `whole.twins`.

    `more` are files that have macros of theirs and nothing else to be looked at.
    """
    lost = whole.lost()
    makers = {name for name, macro in whole.macros.items() if _MAKES_FUNCTIONS.search(macro.body)}
    if not lost and not makers:
        return
    expander = Expander(whole, [*whole.files, *more], strict=True)
    for function in lost:
        try:
            twins = expander.twins(function)
        except (CannotExpand, ctree.TooDeep):
            continue
        if twins and all(project.flows(twin) for project, twin in twins):
            whole.twins[id(function)] = twins
    for file in whole.files if makers else ():
        if not makers.isdisjoint(_words(file.data.decode("latin-1"))):
            whole.made += expander.made(file)


def _whole_body(macro: Macro) -> str:
    """The replacement without comments: the parser ends it where the first one begins."""
    data = macro.file.data
    text = data[macro.node.child_by_field_name("value").start_byte :].decode("latin-1")
    result, at = [], 0
    for found in re.compile(TOKEN.pattern + r"|\\\r?\n|\n", re.DOTALL).finditer(text):
        token = found.group()
        if token == "\n":
            break
        if token.startswith(("//", "/*", "\\")):
            result += [text[at : found.start()], " "]
            at = found.end()
    else:
        return "".join([*result, text[at:]])
    return "".join([*result, text[at : found.start()]])


def _makes_strings(macro: Macro) -> bool:
    return any(re.search(rf"(?<!#)#\s*{re.escape(name)}\b", macro.body) for name in macro.parameters or ())


def _words(text: str) -> Set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", text))


def _substituted(macro: Macro, given: List[str]) -> str:
    body = macro.body
    if macro.parameters is None:
        return body
    names = [name.rstrip(". ") for name in macro.parameters if name.strip(". ")]
    values = dict(zip(names, given))
    values.update({name: "" for name in names[len(given) :]})
    values["__VA_ARGS__"] = ", ".join(given[len(names) :])
    body = re.sub(r"\s*##\s*", "##", body)
    if not values["__VA_ARGS__"]:
        body = body.replace(",##__VA_ARGS__", "")

    def value(found: "re.Match[str]") -> str:
        if found.group("text"):
            return found.group()
        known = values.get(found.group("name"))
        if known is None:
            return found.group()
        is_string = found.group("hash") == "#"
        return '"' + known.replace("\\", "\\\\").replace('"', '\\"') + '"' if is_string else found.group("hash") + known

    pattern = r"(?P<text>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')|(?P<hash>(?:#{1,2}\s*)?)\b(?P<name>[A-Za-z_]\w*)"
    return re.sub(pattern, value, body).replace("##", "")


def arguments_at(text: str, opening: int) -> Tuple[int, List[str]]:
    """Of a macro's use, from its parenthesis on; the end is -1 if it is not closed."""
    depth, start = 0, opening + 1
    given: List[str] = []
    for found in re.compile(TOKEN.pattern + r"|[(),\[\]{}]", re.DOTALL).finditer(text, opening):
        token = found.group()
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
            if depth == 0:
                last = text[start : found.start()]
                given += [last.strip()] if given or last.strip() else []
                return found.end(), given
        elif token == "," and depth == 1:
            given.append(text[start : found.start()].strip())
            start = found.end()
    return -1, []


# --- conditional compilation


@dataclasses.dataclass
class _Arm:
    """Of a `#if`: whether it is taken, and whether one has been taken in all."""

    taken: bool
    any_taken: bool
    outer: bool


def resolved(text: str, chosen: Chosen) -> str:
    """Directives and the arms that are not taken as blanks."""
    lines = text.split("\n")
    result: List[str] = []
    stack: List[_Arm] = []
    for at, line, count in _logical(lines):
        found = _DIRECTIVE.match(line)
        live = all(arm.taken and arm.outer for arm in stack)
        if found is not None:
            _step(stack, found.group("word"), line, live, chosen, _is_guard(lines, at))
        keep = found is None and live
        result += lines[at : at + count] if keep else [re.sub(r"[^\r]", " ", part) for part in lines[at : at + count]]
    return "\n".join(result)


def needed(text: str, place: int) -> "frozenset[Tuple[str, bool]]":
    """The conditions on which this place is compiled."""
    lines = text.split("\n")
    last = text.count("\n", 0, place)
    stack: List[List[Tuple[str, bool]]] = []
    for at, line, _ in _logical(lines):
        found = _DIRECTIVE.match(line)
        if at >= last:
            break
        word = found.group("word") if found is not None else ""
        if word in ("if", "ifdef", "ifndef"):
            stack.append([] if _is_guard(lines, at) else _condition(line))
        elif word in ("elif", "elifdef", "elifndef", "else") and stack:
            stack[-1] = [(key, not value) if index == len(stack[-1]) - 1 else (key, value)
                         for index, (key, value) in enumerate(stack[-1])]  # fmt: skip
            stack[-1] += _condition(re.sub(r"#[ \t]*el", "#", line, count=1)) if word != "else" else []
        elif word == "endif" and stack:
            stack.pop()
    return frozenset(condition for level in stack for condition in level)


def _condition(line: str) -> List[Tuple[str, bool]]:
    known, key, negated = _read(line)
    return [(key, not negated)] if known is None and key else []


def _logical(lines: List[str]) -> Iterator[Tuple[int, str, int]]:
    """(index, text, how many) of lines; those of a directive that are continued are one."""
    at = 0
    while at < len(lines):
        count = 1
        if _DIRECTIVE.match(lines[at]):
            while lines[at + count - 1].rstrip("\r").endswith("\\") and at + count < len(lines):
                count += 1
        joined = " ".join(part.rstrip("\r").rstrip("\\") for part in lines[at : at + count])
        yield at, joined, count
        at += count


def _step(stack: List[_Arm], word: str, line: str, live: bool, chosen: Chosen, guard: bool) -> None:
    if word in ("if", "ifdef", "ifndef"):
        taken = guard or _is_taken(line, chosen)
        stack.append(_Arm(taken, taken, live))
    elif word in ("elif", "elifdef", "elifndef", "else") and stack:
        arm = stack[-1]
        taken = not arm.any_taken and (word == "else" or _is_taken(re.sub(r"#[ \t]*el", "#", line, count=1), chosen))
        stack[-1] = _Arm(taken, arm.any_taken or taken, arm.outer)
    elif word == "endif" and stack:
        stack.pop()


def _is_guard(lines: List[str], at: int) -> bool:
    """`#ifndef X` with `#define X` in the next line."""
    found = re.match(r"[ \t]*#[ \t]*ifndef[ \t]+(\w+)", lines[at])
    following = next((line for line in lines[at + 1 :] if line.strip()), "")
    return found is not None and re.match(rf"[ \t]*#[ \t]*define[ \t]+{found.group(1)}\b", following) is not None


def _is_taken(line: str, chosen: Chosen) -> bool:
    known, key, negated = _read(line)
    return known if known is not None else chosen.value(key) != negated


@functools.lru_cache(maxsize=4096)
def _read(line: str) -> Tuple[Optional[bool], str, bool]:
    """Whether a condition is always or never met, what it asks, and whether for the opposite."""
    root = ctree.parser("c").parse(line.encode("latin-1", "replace") + b"\n#endif\n").root_node
    for node in root.named_children:
        if node.type in ("preproc_if", "preproc_ifdef"):
            key, negated = preprocessor.condition_key(node)
            return preprocessor.condition_truth(node), key, negated
    return None, "", False
