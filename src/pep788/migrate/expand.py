"""What a file says once the macros that matter are expanded: those that attach, release, or leave a function, and those
whose arguments need not be C.

Not a preprocessor: all other macros stay as they are, and where conditional compilation depends on something the file
is looked at several times, with the conditions met and not.  Lines keep their numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Dict, Iterator, List, Optional, Set, Tuple

from ..check import ctree, names, preprocessor
from ..check.ctree import CFile, Function, Macro
from ..check.project import Project

TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|(?P<name>[A-Za-z_]\w*)", re.DOTALL)
_LEAVES = re.compile(r"\b(?:return|goto|break|continue|throw)\b|^\s*\w+\s*:(?!:)")
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(?P<word>[a-z]+)\b")
MOST_VARIANTS = 12
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


@dataclasses.dataclass(frozen=True)
class Use:
    """A macro in the text of a file, at byte `at` up to `end`; `start` to `stop` is what became of it."""

    name: str
    at: int
    end: int
    start: int
    stop: int


@dataclasses.dataclass
class Expanded:
    """A file after it; `functions` have their events."""

    file: CFile
    uses: List[Use]
    functions: List[Function]

    def function_of(self, use: Use) -> Optional[Function]:
        for function in self.functions:
            if function.node.start_byte <= use.start and use.stop <= function.node.end_byte:
                return function
        return None


class Expander:
    """The macros of a tree; without `pairs` those that attach and release stay as they are."""

    def __init__(self, whole: Project, files: List[CFile], pairs: bool = True) -> None:
        self.whole = whole
        self.pairs = pairs
        self.definitions: Dict[str, List[Macro]] = {}
        self._twins: Dict[int, List[Expanded]] = {}
        for file in files:
            for macro in ctree.definitions(file):
                macro = dataclasses.replace(macro, body=_whole_body(macro))
                known = self.definitions.setdefault(macro.name, [])
                if all(macro.body.split() != other.body.split() for other in known):
                    known.append(macro)
        self.matter = self._matter()

    def _matter(self) -> Set[str]:
        found = set(self.whole.macros) & set(self.definitions) if self.pairs else set()
        for name, macros in self.definitions.items():
            if any(_LEAVES.search(macro.body) or _makes_strings(macro) for macro in macros):
                found.add(name)
        while True:
            more = {
                name
                for name, macros in self.definitions.items()
                if name not in found and any(not found.isdisjoint(_words(m.body)) for m in macros)
            }
            if not more:
                return found if self.pairs else found - set(self.whole.macros)
            found |= more

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
        met = chosen.met
        text, uses = self._text(resolved(file.data.decode("latin-1"), chosen), met)
        data = text.encode("latin-1")
        known = {} if self.pairs else self.whole.known_in[file.path]
        masked = ctree.mask(data, [*names.STATEMENT_MACROS, *known])
        new = CFile(file.path, data, masked, file.language)
        functions = [f for f in new.functions if f.body is not None]
        for function in functions:
            functions += ctree.add_events(function, known)
        return Expanded(new, uses, functions)

    def twins(self, function: Function) -> List[Tuple[Project, Function]]:
        """The function with its macros expanded, all conditions met and none, each in a project of its own."""
        key = id(function.file)
        if key not in self._twins:
            self._twins[key] = self.all_of(function.file, set())
        line = function.node.start_point[0]
        found = []
        for expanded in self._twins[key]:
            for twin in expanded.functions:
                if twin.name == function.name and twin.node.start_point[0] == line:
                    found.append((self.alone(expanded), twin))
        return found

    def alone(self, expanded: Expanded) -> Project:
        """A project of the expanded file: what it still has of macros is known."""
        path = expanded.file.path
        known = {} if self.pairs else self.whole.known_in[path]
        others = {name: macros for name, macros in self.definitions.items() if name not in known}
        others = {**{n: m for found in self.whole.others.values() for n, m in found.items()}, **others}
        return Project(files=[expanded.file], others={path: others}, known_in={path: known})

    def _text(self, text: str, met: bool) -> Tuple[str, List[Use]]:
        result: List[str] = []
        uses: List[Use] = []
        length = done = 0
        for found in TOKEN.finditer(text):
            name, at = found.group("name"), found.start()
            if name is None or name not in self.matter or at < done:
                continue
            end, given = self._use(text, found.end(), self._definition(name, met))
            if end < 0:
                continue
            before = text[done:at]
            body = self._body(name, given, met, frozenset())
            lines = text.count("\n", at, end)
            uses.append(Use(name, at, end, length + len(before), length + len(before) + len(body)))
            result += [before, body, "\n" * lines]
            length += len(before) + len(body) + lines
            done = end
        return "".join([*result, text[done:]]), uses

    def _definition(self, name: str, met: bool) -> Macro:
        known = self.definitions[name]
        if len(known) > 2:
            raise CannotExpand(f"{name} has {len(known)} definitions")
        return known[0] if met else known[-1]

    def _use(self, text: str, at: int, macro: Macro) -> Tuple[int, List[str]]:
        """Where the use ends, -1 if it is none, and the arguments."""
        if macro.parameters is None:
            return at, []
        opening = re.compile(r"\s*\(").match(text, at)
        if opening is None:
            return -1, []
        end, given = arguments_at(text, opening.end() - 1)
        return end, [" ".join(one.splitlines()) for one in given]

    def _body(self, name: str, given: List[str], met: bool, hidden: "frozenset[str]") -> str:
        macro = self._definition(name, met)
        text = _substituted(macro, given)
        result: List[str] = []
        done = 0
        for found in TOKEN.finditer(text):
            inner = found.group("name")
            if inner is None or inner not in self.matter or inner == name or inner in hidden or found.start() < done:
                continue
            end, inner_given = self._use(text, found.end(), self._definition(inner, met))
            if end < 0:
                continue
            result += [text[done : found.start()], self._body(inner, inner_given, met, hidden | {name})]
            done = end
            if sum(map(len, result)) > MOST_BODY:
                raise CannotExpand(f"{name} is too long when it is expanded")
        return "".join([*result, text[done:]])


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
