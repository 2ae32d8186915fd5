"""What the tools that a person runs have in common: option types, help that fits the terminal, width and colours."""

from __future__ import annotations

import argparse
import os
import shutil
import sys


def whole_number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:  # also refuses nan
        raise ValueError(text)
    return number


# argparse names the types by these: "invalid number of seconds value: 'x'"
whole_number.__name__ = "whole number above 0"
seconds.__name__ = "number of seconds"


class ParagraphHelp(argparse.HelpFormatter):
    """Wraps each paragraph of the description and the epilog by itself; one with indented lines stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        filled = [p if "\n " in p else super(ParagraphHelp, self)._fill_text(p, width, indent) for p in paragraphs]
        return "\n\n".join(filled)


def terminal_columns(without: int = 80) -> int:
    """Columns of the terminal, or as many as are good ``without`` one."""
    return max(40, shutil.get_terminal_size((without, 24)).columns)


def has_colours() -> bool:
    """Whether standard output is a terminal that may show them: no-color.org."""
    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
