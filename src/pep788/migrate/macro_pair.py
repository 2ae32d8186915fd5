"""A pair of macros around the code, such as BEGIN and END of a library: opened where it is used.

What to do on failure differs per use, and a macro cannot know it.  So each use is replaced by what the macro stands
for, if that is a declaration with the Ensure, and the Release, with at most a block around both.  The macros stay.
"""

from __future__ import annotations

import re
from typing import Iterator, List, Set

from ..check import ctree
from ..check.ctree import Event, Function, Macro, Node
from ..check.model import Edit
from ..check.project import Project
from .model import Refused
from .pair import ENSURE, RELEASE, Pair, statement_of

_OPENING = re.compile(
    r"(?P<block>(?P<word>\w+)?\s*\{)?\s*PyGILState_STATE\s+(?P<name>\w+)\s*=\s*PyGILState_Ensure\s*\(\s*\)\s*;?\s*"
)
_CLOSING = re.compile(
    r"PyGILState_Release\s*\(\s*(?P<name>\w+)\s*\)\s*;?\s*(?P<block>\}\s*(?:while\s*\(\s*0\s*\)|\w*))?\s*;?\s*"
)
_BLOCK_WORDS = frozenset({"do", "(void)__extension__(", "(void)(", "if(1)"})
"""What may stand in front of a macro's `{`, blanks apart."""


class MacroPair(Pair):
    """The Ensure is in one macro, each Release in another."""

    def __init__(self, project: Project, function: Function, ensure: Event) -> None:
        super().__init__(project, function, ensure)
        self.macro = _macro(ensure)
        self.opening = _OPENING.fullmatch(self.macro.body)

    def _refuse_variable(self) -> None:
        if self.opening is None:
            raise self._refused("it is more than a declaration with PyGILState_Ensure")
        word = self.opening.group("word")
        if word and not _is_block_word(self.project, word):
            raise self._refused(f"{word}, in front of its block, is not known")
        if self.macro.parameters is not None:
            raise self._refused("it has parameters")
        for macro in {
            id(m): m for m in (self.macro, *(r.macro for r in self.releases if r.macro is not None))
        }.values():
            if len(_definitions(self.project, macro.name)) > 1:
                raise self._refused(f"{macro.name} has another definition")
        for release in self.releases:
            self._refuse_release(release)
        if self.opening.group("block") and self._declares_twice():
            raise self._refused("without its block a name would be declared twice")
        if re.search(rb"\b%b\b" % self.key.encode(), self.function.text):
            raise self._refused(f"its variable {self.key} is used in the function, too")

    def _refuse_release(self, release: Event) -> None:
        if release.macro is None:
            raise self._refused("PyGILState_Release is called without a macro")
        closing = _CLOSING.fullmatch(release.macro.body)
        if closing is None or release.macro.parameters is not None:
            raise self._refused(f"{release.macro.name} is more than PyGILState_Release")
        blocks = bool(self.opening and self.opening.group("block")), bool(closing.group("block"))
        alone = len(self.releases) == 1 and _block_of(release) == self.statement.parent
        if blocks[0] != blocks[1] or (blocks[0] and not alone):
            raise self._refused("the block that it opens is not closed beside it")

    def _declares_twice(self) -> bool:
        siblings = [node for node in self.statement.parent.named_children if node.type == "declaration"]
        names = [name for node in siblings for name, _ in ctree.declared(self.file, node)]
        if self.statement.parent == self.function.body:
            names += self.function.parameters
        return len(names) > len(set(names))

    def _refused(self, reason: str) -> Refused:
        line = self.macro.file.span(self.macro.node).line
        return Refused(f"through the macro {self.macro.name} ({self.macro.file.path}:{line}): {reason}")

    def _fits_place(self) -> bool:
        if not all(map(self._is_whole, (self.ensure, *self.releases))):
            raise self._refused("a use is no statement of its own, or has no semicolon")
        return True

    def _is_whole(self, event: Event) -> bool:
        """`MACRO;`, with its own semicolon."""
        statement = statement_of(event.node)
        whole = event.node.parent == statement and statement.type == "expression_statement"
        return whole and self.file.data[statement.end_byte - 1 : statement.end_byte] == b";"

    def notes(self) -> Iterator[str]:
        yield f"opened the macro {self.macro.name}, which stays: remove it if nobody else uses it"
        yield from super().notes()

    def edits(self, view: str, leave: List[str]) -> Iterator[Edit]:
        node = self.ensure.node
        yield Edit(node.start_byte, node.end_byte, f"PyThreadStateToken *{self.key} = {ENSURE}({view})")
        yield self._test(leave)
        for release in self.releases:
            yield Edit(release.node.start_byte, release.node.end_byte, f"{RELEASE}({self.key})")


def _block_of(event: Event) -> Node:
    block = statement_of(event.node).parent
    while block.type == "labeled_statement":
        block = block.parent
    return block


def _macro(event: Event) -> Macro:
    assert event.macro is not None
    return event.macro


def _is_block_word(project: Project, word: str) -> bool:
    """`do`, or a macro all of whose definitions are of that kind."""
    bodies = {body.replace(" ", "") for body in _definitions(project, word)}
    return word == "do" or (bool(bodies) and _BLOCK_WORDS.issuperset(bodies))


def _definitions(project: Project, name: str) -> Set[str]:
    """The replacements of a macro, empty ones too, in all arms that a supported version compiles."""
    define = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+%b\b((?:[^\n]*\\\r?\n)*[^\n]*)" % name.encode(), re.MULTILINE)
    found = (match.group(1) for file in project.files for match in define.finditer(file.root.text))
    return {
        " ".join(body.decode("utf-8", "replace").replace("\\\n", " ").replace("\\\r", " ").split()) for body in found
    }
