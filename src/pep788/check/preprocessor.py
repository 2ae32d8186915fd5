"""Which arms of `#if` are there on CPython 3.9 and later, as far as the condition alone tells."""

from __future__ import annotations

import bisect
import dataclasses
import re
from typing import Any, Callable, List, Optional, Tuple

Node = Any

OLDEST = 0x03090000
ALWAYS_DEFINED = frozenset({"WITH_THREAD", "PY_MAJOR_VERSION", "PY_MINOR_VERSION", "PY_VERSION_HEX", "Py_PYTHON_H"})
CONDITIONALS = frozenset({"preproc_if", "preproc_ifdef", "preproc_elif", "preproc_elifdef"})


def truth(node: Node) -> Optional[bool]:
    """True or False when that holds on every CPython from 3.9 on; None when it depends."""
    if node.type == "parenthesized_expression":
        return truth(node.named_children[0]) if node.named_children else None
    if node.type == "number_literal":
        return _number(node) != 0
    if node.type == "preproc_defined":
        name = next((c.text.decode("utf-8", "replace") for c in node.named_children if c.type == "identifier"), "")
        return True if name in ALWAYS_DEFINED else None
    if node.type == "unary_expression":
        inner = truth(node.named_children[0]) if node.named_children else None
        return None if inner is None or node.children[0].type != "!" else not inner
    if node.type == "binary_expression" and len(node.named_children) == 2:
        return _binary(node)
    return None


def _binary(node: Node) -> Optional[bool]:
    left, right = node.named_children
    operator = node.children[1].type
    if operator in ("&&", "||"):
        values = (truth(left), truth(right))
        decides = operator == "||"
        return decides if decides in values else (None if None in values else not decides)
    bounds, number = _bounds(left), _number(right)
    if bounds is None or number is None:
        return None
    low, high = bounds
    answers = {
        ">=": (low >= number, high < number),
        ">": (low > number, high <= number),
        "<": (high < number, low >= number),
        "<=": (high <= number, low > number),
        "==": (low == high == number, number < low or number > high),
        "!=": (number < low or number > high, low == high == number),
    }
    surely, never = answers.get(operator, (False, False))
    return True if surely else False if never else None


def _bounds(node: Node) -> Optional[Tuple[int, int]]:
    name = node.text.decode("utf-8", "replace")
    if name == "PY_MAJOR_VERSION":
        return 3, 3
    if name == "PY_MINOR_VERSION":
        return OLDEST >> 16 & 0xFF, 0xFF
    return (OLDEST, 0x7FFFFFFF) if name == "PY_VERSION_HEX" else None


def _number(node: Node) -> Optional[int]:
    text = re.sub(r"[uUlL']+", "", node.text.decode("utf-8", "replace"))
    try:
        return int(text, 8 if re.fullmatch(r"0[0-7]+", text) else 0)
    except ValueError:
        return None


def condition_truth(node: Node) -> Optional[bool]:
    """Of a `#if`, `#ifdef`, `#ifndef`, `#elif` node."""
    name = node.child_by_field_name("name")
    if name is not None:
        known = name.text.decode("utf-8", "replace") in ALWAYS_DEFINED
        return None if not known else node.children[0].type != "#ifndef"
    condition = node.child_by_field_name("condition")
    return truth(condition) if condition is not None else None


def condition_key(node: Node) -> Tuple[str, bool]:
    """The condition in a form that is the same for `#ifdef X` and `#if defined(X)`, and whether it is negated."""
    name = node.child_by_field_name("name")
    if name is not None:
        negated = node.children[0].type in ("#ifndef", "#elifndef")
        return name.text.decode("utf-8", "replace"), negated
    condition = node.child_by_field_name("condition")
    text = re.sub(r"\s+", "", condition.text.decode("utf-8", "replace")) if condition is not None else ""
    found = re.fullmatch(r"(!?)defined\(?(\w+)\)?", text)
    return (found.group(2), bool(found.group(1))) if found else (text.lstrip("!"), text.startswith("!"))


def dead_ranges(root: Node, data: bytes) -> List[Tuple[int, int]]:
    """Byte ranges of arms that no supported version compiles; `data` is what the tree was made of."""
    dead: List[Tuple[int, int]] = []
    places = [found.start() for found in _CONDITIONAL.finditer(data)]
    stack = [root]
    while stack:
        node = stack.pop()
        if node.type in CONDITIONALS:
            value = condition_truth(node)
            alternative = node.child_by_field_name("alternative")
            if value is True and alternative is not None:
                dead.append((alternative.start_byte, _end_of_arm(alternative)))
            if value is False:
                body = [c for c in node.children if c != alternative]
                after_head = _end_of_line(node)
                end = alternative.start_byte if alternative is not None else _end_of_arm(node)
                if body and after_head < end:
                    dead.append((after_head, end))
        first, end = bisect.bisect_left(places, node.start_byte), bisect.bisect_left(places, node.end_byte)
        if first < end:  # there is one in it
            stack.extend(node.named_children)
    return dead


_CONDITIONAL = re.compile(rb"#[ \t]*(?:if|elif)")
_TOKENS = re.compile(
    rb"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|/\*.*?\*/|//[^\n]*"
    rb"|^[ \t]*#(?:\\\r?\n|[^\n])*|^[}]|[(){}]",
    re.DOTALL | re.MULTILINE,
)
_DIRECTIVE = re.compile(rb"[ \t]*#[ \t]*(if|ifdef|ifndef|elif|else|endif)\b(.*)", re.DOTALL)
_CUTS = re.compile(
    rb"[^;{}\s/\\][ \t]*\r?\n[ \t]*#[ \t]*if|\{[ \t]*\r?\n(?:[^\n]*\n){0,40}?[ \t]*#[ \t]*(?:else|elif)", re.MULTILINE
)
"""Where a conditional may stand within an expression, or may open a brace: most files have none."""


@dataclasses.dataclass
class _Arms:
    """A conditional: its arms as (behind the directive, before the next one, its test), and the depths at its `#if`."""

    start: int
    at: int
    parentheses: int
    braces: int
    arms: List[Tuple[int, int, bytes]] = dataclasses.field(default_factory=list)
    uneven: bool = False
    """An arm opens or closes more braces than it closes or opens."""
    head: bytes = b""


def cuts(data: bytes, truth_of: Callable[[bytes], Optional[bool]]) -> List[Tuple[int, int]]:
    """What to leave out so that the rest parses: all but one arm of conditionals that cut through something.

    That is: within parentheses, or with a brace that another arm or nobody closes.  A C parser sees the code before
    the preprocessor and cannot make sense of them.
    """
    if not _CUTS.search(data):
        return []
    found: List[Tuple[int, int]] = []
    stack: List[_Arms] = []
    parentheses = braces = 0
    for token in _TOKENS.finditer(data):
        text = token.group()
        if text in (b"(", b")"):
            parentheses = max(0, parentheses + (1 if text == b"(" else -1))
        elif text in (b"{", b"}"):
            braces += 1 if text == b"{" else -1
            if text == b"}" and data[token.start() - 1 : token.start()] in (b"\n", b""):
                parentheses = 0  # the end of a function
        elif text.lstrip()[:1] == b"#":
            directive = _DIRECTIVE.match(text)
            if directive is None:
                continue
            word, rest = directive.group(1), directive.group(2)
            if word.startswith(b"if"):
                stack.append(_Arms(token.start(), token.end(), parentheses, braces, head=b"#" + word + rest))
            elif stack:
                arms = stack[-1]
                arms.arms.append((arms.at, token.start(), arms.head))
                arms.at = token.end()
                arms.uneven = arms.uneven or braces != arms.braces
                arms.head = b"#if" + rest if word == b"elif" else b""
                if word == b"endif":
                    stack.pop()
                    found += _left_out(arms, token.end(), truth_of)
                    if not arms.uneven:
                        parentheses = arms.parentheses
                else:
                    parentheses, braces = arms.parentheses, arms.braces
    return found


def _left_out(arms: _Arms, end: int, truth_of: Callable[[bytes], Optional[bool]]) -> List[Tuple[int, int]]:
    if not arms.parentheses and not (arms.uneven and len(arms.arms) > 1):
        return []
    chosen = next((arm for arm in arms.arms if not arm[2] or truth_of(arm[2]) is not False), arms.arms[0])
    return [(arms.start, chosen[0]), (chosen[1], end)]


def _end_of_line(node: Node) -> int:
    """Where the directive ends and what it guards begins."""
    head = node.child_by_field_name("condition") or node.child_by_field_name("name")
    return int(head.end_byte) if head is not None else int(node.start_byte)


def _end_of_arm(node: Node) -> int:
    last = node.children[-1] if node.children else node
    return int(last.start_byte if last.type == "#endif" else node.end_byte)


def blank(data: bytes, ranges: List[Tuple[int, int]]) -> bytes:
    """Replace the ranges by blanks; line ends stay."""
    result = bytearray(data)
    for start, end in ranges:
        result[start:end] = re.sub(rb"[^\r\n]", b" ", bytes(result[start:end]))
    return bytes(result)
