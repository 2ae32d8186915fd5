"""Cython functions that take the GIL: split into one that may come too late, and one that is Python.

    cdef int on_data(void *data) noexcept nogil:        # the name that C is given: ensures, tests, calls, releases
    cdef int on_data_attached(void *data) noexcept:     # the body as it was

An exception that leaves an `except *` body has to stay set, where the thread was attached before: the method that
called C looks for it.  So that body is called as if it were noexcept, which is a call without a test.

Only where C alone calls them. The function types of those declared `with gil` have to be in the same file, and change,
too, so it is all of these in a file or none. Those that are `nogil`, and whose body is a `with gil:` block, keep their
types: each is for itself.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from ..check.cython_tree import CythonFile, GilBlock, Whole
from ..check.expand import arguments_at
from ..check.model import Edit, Span
from ..check.sources import Item
from . import edits
from .decisions import Decisions
from .macro_body import MacroChange
from .model import Asked, Outcome, Refused, Site

GUIDE = "split it by hand, as in the migration guide, pattern i"
VIEW = "_pep788_view"
_CODE = re.compile(
    r"#[^\n]*|(?P<quote>\"\"\"|'''|\"|')(?:\\.|(?!(?P=quote)).)*?(?P=quote)|(?P<name>[A-Za-z_]\w*)", re.DOTALL
)
_HEADER = re.compile(r"^cdef[ \t]+(?P<type>[^(\n=]*?)(?P<name>[A-Za-z_]\w*)[ \t]*\(", re.MULTILINE)
_WITH_GIL = re.compile(r"(?P<blanks>[ \t]*)(?P<words>with[ \t]+gil[ \t]*:)[ \t]*(?P<comment>#.*)?")
_SPEC = re.compile(r"(?P<spec>[^:#\n()]*):[ \t]*(?:#[^\n]*)?\r?$", re.MULTILINE)
_TYPEDEF = re.compile(r"^[ \t]*ctypedef[ \t]+[^(\n]*\([ \t]*\*[ \t]*(?P<name>\w+)[ \t]*\)[ \t]*\(", re.MULTILINE)
_PARAMETER = re.compile(
    r"(?P<const>const\s+)?(?P<base>[\w.]+(?:\s+(?:int|long|char|short|double))*)(?:\[[^\]]*\])?\s*(?P<marks>[*&\s]*)\b(?P<name>\w+)"
)
BASIC = frozenset(
    "void char short int long float double size_t ssize_t Py_ssize_t bint unsigned signed int8_t int16_t int32_t "
    "int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t ptrdiff_t time_t".split()
)
WORDS = ("PyInterpreterView", "PyThreadStateToken", "Pep788_Init", "PyThreadState_EnsureFromView", VIEW, "pep788")


class _Left(Exception):
    """What is left alone, each site with its own question."""

    def __init__(self, sites: List[Site]) -> None:
        super().__init__()
        self.sites = sites


@dataclasses.dataclass
class _Split:
    """One function: where its parts are."""

    span: Span
    name: str
    raises: bool
    start: int
    name_at: int
    opening: int
    closing: int
    """Behind the parenthesis."""
    spec: Tuple[int, int]
    returns: str
    parameters: List[str]
    whole: Optional[Whole] = None
    """The block that its body is; else it is declared `with gil`."""

    @property
    def what(self) -> str:
        return "function" if self.whole is None else "block"


class CythonSplit:
    """One file."""

    def __init__(
        self, file: CythonFile, others: Iterable[Item], decisions: Decisions, ignored: Callable[[Span], bool]
    ) -> None:
        self.file = file
        self.text = file.data.decode("latin-1")
        self.names = {m.start(): m.group("name") for m in _CODE.finditer(self.text) if m.group("name")}
        self.others = [item for item in others if item.path != file.path]
        self.decisions = decisions
        self.ignored = ignored

    def sites(self, native: bool) -> List[Site]:
        """What becomes of its functions and blocks."""
        splits: List[_Split] = []
        shared: List[Edit] = []
        left: List[Site] = []
        try:
            functions, typedefs = self._functions()
            splits += functions
            shared += (Edit(start, end, " noexcept nogil") for start, end in typedefs)
        except _Left as error:
            left += error.sites
        except (Refused, Asked) as error:
            left += (error.site(function.span, function.function) for function in self.file.functions)
        for block in self.file.blocks:
            if block.attaches:
                try:
                    splits.append(self._block(block))
                except (Refused, Asked) as error:
                    left.append(error.site(block.span, block.function))
        return left + (self._migrated(splits, shared, native) if splits else [])

    def _functions(self) -> Tuple[List[_Split], List[Tuple[int, int]]]:
        """Those declared `with gil`, and where their types say so."""
        if not self.file.functions:
            return [], []
        self._refuse_file("function")
        splits = [self._split(f.function, f.span, f.raises, None) for f in self.file.functions]
        typedefs = list(self._typedefs())
        self._refuse_other_gil(splits, typedefs)
        for split in splits:
            self._refuse_other_uses(split, bool(typedefs))
        asked: List[Optional[Asked]] = [self._ask(split) for split in splits]
        if any(asked):
            raise _Left([self._asked(split, question) for split, question in zip(splits, asked)])
        return splits, typedefs

    def _block(self, block: GilBlock) -> _Split:
        """A function that is nothing but this block."""
        self._refuse_file("block")
        if block.whole is None:
            raise self._refused("block", block.reason)
        if not _WITH_GIL.fullmatch(self._line(block.whole.line)):
            raise self._refused("block", "it is not on lines of its own")
        split = self._split(block.function, block.span, False, block.whole)
        self._refuse_other_uses(split, True)
        question = self._ask(split)
        if question is not None:
            raise question
        return split

    def _refuse_file(self, what: str) -> None:
        if not self.file.path.endswith(".pyx"):
            raise Refused(f"a Cython `with gil` {what}: {GUIDE}")
        if self.decisions.view:
            raise self._refused(what, "a view is given by decision")
        if any(re.search(rf"\b{word}\b", self.text) for word in WORDS):
            raise self._refused(what, "the file uses pep788 already")

    def _migrated(self, splits: List[_Split], shared: List[Edit], native: bool) -> List[Site]:
        first = min(splits, key=lambda split: split.start)
        at, made = self._set_up(first.start, native)
        if at < first.start:
            shared.append(Edit(at, at, made))
            made = ""
        change = MacroChange({self.file.path: shared})
        note = "" if native else "the folder of pep788.h has to be on the include path of what Cython writes"
        lost = "an exception that leaves it is left to a caller that was attached before, or lost, as it was"
        return [
            Site(
                split.span,
                split.name,
                Outcome.MIGRATED,
                notes=tuple(filter(None, (note, lost if split.raises else ""))),
                edits=tuple(self._edits(split, made if split is first else "")),
                view=VIEW,
                macros=change,
            )
            for split in splits
        ]

    def _refused(self, what: str, reason: str) -> Refused:
        return Refused(f"a Cython `with gil` {what}: {reason}; {GUIDE}")

    def _line(self, number: int) -> str:
        return self.text.split("\n")[number - 1].rstrip("\r")

    # --- what it is made of

    def _split(self, name: str, span: Span, raises: bool, whole: Optional[Whole]) -> _Split:
        what = "function" if whole is None else "block"
        if self.ignored(span):
            raise Refused("by a comment: pep788: ignore")
        headers = [h for h in _HEADER.finditer(self.text) if h.group("name") == name and h.start("name") in self.names]
        if len(headers) != 1:
            raise self._refused(what, f"{name} is no function at the level of the module")
        header = headers[0]
        if re.search(r"\b(?:inline|public|api|extern)\b", header.group("type")):
            raise self._refused(what, f"{name} is inline, public or api")
        above = [line for line in self.text[: header.start()].splitlines() if line.strip() and line[0] != "#"]
        if above and above[-1].startswith("@"):
            raise self._refused(what, f"{name} has a decorator")
        closing, given = arguments_at(self.text, header.end() - 1)
        spec = _SPEC.match(self.text, closing) if closing > 0 else None
        if spec is None or "gil" not in spec.group("spec"):
            raise self._refused(what, f"the head of {name} is not plain")
        parameters = [self._parameter(what, name, text) for text in given]
        returns = " ".join(header.group("type").split()).replace(" *", "*")
        self._refuse_result(what, name, returns, spec.group("spec"))
        return _Split(span, name, raises, header.start(), header.start("name"), header.end() - 1, closing,
                      spec.span("spec"), returns, parameters, whole)  # fmt: skip

    def _parameter(self, what: str, name: str, text: str) -> str:
        found = _PARAMETER.fullmatch(text.strip())
        if found is None or not self._is_of_c(found.group("base"), found.group("marks")):
            raise self._refused(what, f"{name} has a parameter that may be a Python object ({' '.join(text.split())})")
        return found.group("name")

    def _is_of_c(self, base: str, marks: str) -> bool:
        words = base.split()
        if "object" in words:
            return False
        if marks.strip() or BASIC.issuperset(words):
            return True
        kind = rf"^[ \t]*(?:cdef|ctypedef)[ \t]+(?:packed[ \t]+)?(?:enum|struct|union)[ \t]+{re.escape(base)}\b"
        plain = rf"^[ \t]*ctypedef[ \t]+(?:{'|'.join(sorted(BASIC))})[ \t\w]*\b{re.escape(base)}[ \t]*\r?$"
        return re.search(f"{kind}|{plain}", self.text, re.MULTILINE) is not None

    def _refuse_result(self, what: str, name: str, returns: str, spec: str) -> None:
        if what == "block" and "noexcept" not in spec.split():
            raise self._refused(what, f"{name} is not noexcept, so its caller may want to see its exceptions")
        if returns == "void":
            return
        base, _, marks = returns.partition("*")
        if not self._is_of_c(base.strip(), "*" + marks if "*" in returns else ""):
            raise self._refused(what, f"{name} returns what may be a Python object")
        if "noexcept" not in spec.split():
            raise self._refused(what, f"{name} returns a value that stands for an exception, too")

    def _typedefs(self) -> Iterator[Tuple[int, int]]:
        """Where the function types with `with gil` say so."""
        for found in _TYPEDEF.finditer(self.text):
            closing, _ = arguments_at(self.text, found.end() - 1)
            spec = re.compile(r"[^\n#]*?(?=[ \t]*(?:#[^\n]*)?\r?$)", re.MULTILINE).match(self.text, closing)
            if closing > 0 and spec is not None and re.search(r"\bwith[ \t]+gil\b", spec.group()):
                if self._elsewhere(found.group("name")):
                    raise self._refused("function", f"{found.group('name')} is used in other files")
                yield spec.span()

    def _refuse_other_gil(self, splits: List[_Split], typedefs: List[Tuple[int, int]]) -> None:
        known = [*typedefs, *(split.spec for split in splits)]
        for at, name in self.names.items():
            if name != "gil" or any(start <= at < end for start, end in known):
                continue
            line = self.text[self.text.rfind("\n", 0, at) + 1 : at + len("gil:")]
            if re.match(r"[ \t]*with[ \t]+gil[ \t]*:", line + ":") is None:
                number = self.text.count("\n", 0, at) + 1
                raise self._refused("function", f"`with gil` in line {number} is of something else")

    def _refuse_other_uses(self, split: _Split, has_types: bool) -> None:
        name = split.name
        if self._elsewhere(name):
            raise self._refused(split.what, f"{name} is used in other files")
        if f"{name}_attached" in self.names.values():
            raise self._refused(split.what, f"{name}_attached is there already")
        for at, word in self.names.items():
            if word == name and at != split.name_at:
                following = self.text[at + len(name) :].lstrip()[:1]
                if following not in (",", ")"):
                    line = self.text.count("\n", 0, at) + 1
                    how = "called by Python code, too" if following == "(" else f"used in line {line} as no argument"
                    raise self._refused(split.what, f"{name} is {how}")
        if not has_types and "noexcept" not in self.text[split.spec[0] : split.spec[1]].split():
            raise self._refused(split.what, f"the function type of {name} is in another file")

    def _elsewhere(self, name: str) -> bool:
        word = re.compile(rb"\b%b\b" % name.encode())
        return any(word.search(item.data) for item in self.others if item.suffix in (".pyx", ".pxd", ".pxi", ".py"))

    # --- what only its author knows

    def _ask(self, split: _Split) -> Optional[Asked]:
        name = split.name
        decision = self.decisions.named(self.file.path, [name])
        if decision.skip or decision.view or decision.before:
            raise self._refused(split.what, f"by decision: {decision.skip or 'it has a view or statements of its own'}")
        if split.returns == "void" or self._value(split) is not None:
            return None
        return Asked(
            f"what does {name} return ({split.returns}) where Python is finalizing?",
            f"--failure-value '{name}=EXPR'",
            f'skip = "REASON" under [callbacks."{name}"] in the decisions file, where no value is right',
        )

    def _value(self, split: _Split) -> Optional[str]:
        own = self.decisions.named(self.file.path, [split.name]).value
        return own if own is not None else self.decisions.defaults.get(split.returns)

    def _asked(self, split: _Split, question: Optional[Asked]) -> Site:
        own = question or Asked("the function types of this file change with all its functions")
        return own.site(split.span, split.name)

    # --- the edits

    def _edits(self, split: _Split, made: str) -> Iterator[Edit]:
        """`made` goes in front of it."""
        name, line_end = split.name, edits.newline(self.file.data, split.start)
        head = self.text[split.start : split.closing] + " noexcept nogil:"
        token = self._free("token", split)
        called = f"{name}_attached"
        if split.raises:
            types = " ".join(self.text[split.opening : split.closing].split())
            called = f"(<void (*){types} noexcept>{called})"
        call = f"{called}({', '.join(split.parameters)})"
        lines = [f"cdef PyThreadStateToken *{token} = PyThreadState_EnsureFromView({VIEW})"]
        if split.returns == "void":
            lines += [f"if {token} == NULL:", "    return", "with gil:", f"    {call}"]
            lines += [f"PyThreadState_Release({token})"]
        else:
            result = self._free("result", split)
            value = self._value(split)
            kind = split.returns if "*" in split.returns else split.returns + " "
            lines = [f"cdef {kind.replace('*', ' *', 1)}{result}", *lines]
            lines += [f"if {token} == NULL:", f"    return {value}", "with gil:", f"    {result} = {call}"]
            lines += [f"PyThreadState_Release({token})", f"return {result}"]
        body = "".join(f"    {line}{line_end}" for line in lines)
        text = made + head + line_end + self._indented(body) + line_end + line_end
        yield Edit(split.start, split.start, text.encode("latin-1").decode("utf-8", "surrogateescape"))
        end = split.name_at + len(name)
        yield Edit(end, end, "_attached")
        start, stop = split.spec
        own = re.sub(r"\s*\bwith\s+gil\b\s*", "", self.text[start:stop])
        yield Edit(start, stop, own if split.whole is None else " noexcept")
        if split.whole is not None:
            yield from self._dedented(split.whole)

    def _dedented(self, whole: Whole) -> Iterator[Edit]:
        """The block without its head, one level to the left; lines inside of strings stay as they are."""
        starts = [0, *(found.end() for found in re.finditer("\n", self.text)), len(self.text)]
        head = _WITH_GIL.fullmatch(self._line(whole.line))
        assert head is not None  # `_block` has looked
        at = starts[whole.line - 1]
        if head.group("comment"):
            yield Edit(at + head.start("words"), at + head.start("comment"), "")
        else:
            yield Edit(at, starts[whole.line], "")
        strings = [found.span() for found in _CODE.finditer(self.text) if found.group("quote")]
        outer, inner = len(head.group("blanks")), 0
        for number in range(whole.line + 1, whole.following or len(starts)):
            start, line = starts[number - 1], self._line(number)
            blanks = len(line) - len(line.lstrip(" \t"))
            plain = line.strip() and not line.lstrip().startswith("#")
            inside = any(first < start < last for first, last in strings)
            if number > whole.last and plain and blanks <= outer and not inside:
                break
            inner = inner or (blanks if plain else 0)
            if not inside and inner and blanks >= inner:
                yield Edit(start + outer, start + inner, "")
            elif not inside and not plain and not inner and blanks > outer:
                yield Edit(start + outer, start + blanks, "")

    def _free(self, name: str, split: _Split) -> str:
        while name in split.parameters:
            name += "_"
        return name

    def _set_up(self, at: int, native: bool) -> Tuple[int, str]:
        """The declarations and the view, and where: in front of the first function with its comments."""
        while at > 0:
            before = self.text.rfind("\n", 0, at - 1) + 1
            if not self.text[before:at].startswith("#"):
                break
            at = before
        line_end = edits.newline(self.file.data, at)
        header = "Python.h" if native else "pep788.h"
        lines = [
            f'cdef extern from "{header}":',
            "    ctypedef struct PyInterpreterView:",
            "        pass",
            "    ctypedef struct PyThreadStateToken:",
            "        pass",
            *([] if native else ["    int Pep788_Init() except -1"]),
            "    PyInterpreterView *PyInterpreterView_FromMain() noexcept nogil",
            "    PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view) noexcept nogil",
            "    void PyThreadState_Release(PyThreadStateToken *token) noexcept nogil",
            "",
            f"cdef PyInterpreterView *{VIEW}",
            *([] if native else ["Pep788_Init()"]),
            f"if {VIEW} == NULL:",
            f"    {VIEW} = PyInterpreterView_FromMain()",
            f"if {VIEW} == NULL:",
            "    raise MemoryError",
            "",
            "",
        ]
        return at, self._indented("".join(line + line_end for line in lines))

    def _indented(self, text: str) -> str:
        """With tabs where the file is indented by them: Cython takes no mixture."""
        if re.search(r"^\t", self.text, re.MULTILINE) is None:
            return text
        return re.sub(r"^(?:    )+", lambda found: "\t" * (len(found.group()) // 4), text, flags=re.MULTILINE)


def sites(
    file: CythonFile, others: Dict[str, Item], decisions: Decisions, ignored: Callable[[Span], bool], native: bool
) -> List[Site]:
    """What becomes of the functions and blocks of a file."""
    return CythonSplit(file, others.values(), decisions, ignored).sites(native)
