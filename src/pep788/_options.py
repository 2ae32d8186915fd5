"""Types of the tools' options, for argparse: it names them by these, "invalid number of seconds value: 'x'"."""

from __future__ import annotations


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


whole_number.__name__ = "whole number above 0"
seconds.__name__ = "number of seconds"
