"""Edits that several rules propose: a statement on a way out of a function."""

from __future__ import annotations

from typing import List, Tuple

from .ctree import Function, Node, walk
from .flow import Exit
from .model import Edit, Fix


def before_exit(function: Function, exit: Exit, statement: str) -> Tuple[List[Edit], Fix]:
    """Put a statement there; whether it belongs before or behind what the path does is for people to say.

    Where the value that is returned calls something, it may need what the statement gives up: that is only for reading.
    """
    if exit.node == function.body:
        return _at_the_end(function, statement), Fix.UNSAFE
    if exit.node.type not in ("return_statement", "throw_statement"):
        return [], Fix.UNSAFE
    kind = Fix.DISPLAY if any(node.type == "call_expression" for node in walk(exit.node)) else Fix.UNSAFE
    file, node = function.file, exit.node
    indent = file.indent(node)
    if node.parent is not None and node.parent.type in ("compound_statement", "case_statement"):
        between = f"{file.newline}{indent}" if indent is not None else " "
        return [Edit(node.start_byte, node.start_byte, statement + between)], kind
    start, end = node.start_byte, node.end_byte
    return [Edit(start, start, f"{{ {statement} "), Edit(end, end, " }")], kind


def _at_the_end(function: Function, statement: str) -> List[Edit]:
    closing: Node = function.body.children[-1]
    first = next((node for node in function.body.named_children if node.type != "comment"), None)
    indent = function.file.indent(closing)
    inner = function.file.indent(first) if first is not None else None
    if indent is None or inner is None:
        return [Edit(closing.start_byte, closing.start_byte, statement + " ")]
    at = closing.start_byte - len(indent)
    return [Edit(at, at, f"{inner}{statement}{function.file.newline}")]
