"""What only the author can decide: failure values and the like, from the command line and a TOML file."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import re
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from ..check import ctree
from ..check.ctree import Function
from .model import shown_name

FILE_NAME = "pep788-migrate.toml"


class DecisionError(Exception):
    """A decision that cannot be used; the message names it and says what is expected."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """Of one callback. `value` is returned on failure, "" returns nothing; `before` are statements that run then."""

    value: Optional[str] = None
    before: str = ""
    skip: str = ""
    accept: bool = False
    view: str = ""


@dataclasses.dataclass
class Decisions:
    """By callback name, which may have its class (`Class::name`) or the end of its path (`a.c:name`) in front."""

    callbacks: Dict[str, Decision] = dataclasses.field(default_factory=dict)
    defaults: Dict[str, str] = dataclasses.field(default_factory=dict)
    """Failure values by return type."""
    view: str = ""
    user_data: bool = True
    """A view may be kept in the struct that a callback is handed."""
    used: Set[str] = dataclasses.field(default_factory=set)

    def of(self, function: Function) -> Decision:
        return self.named(function.file.path, [shown_name(function), function.name])

    def named(self, path: str, names: Sequence[str]) -> Decision:
        """Of a function in this file; the first name says most."""
        parts = path.split("/")
        paths = ["/".join(parts[at:]) for at in range(len(parts))]
        for key in [f"{path}:{name}" for path in paths for name in names] + list(names):
            if key in self.callbacks:
                self.used.add(key)
                return self.callbacks[key]
        return Decision()

    def value(self, function: Function) -> Optional[str]:
        """The failure value of a function that returns one."""
        own = self.of(function).value
        if own is not None:
            return own
        returns = normal_type(function.return_type)
        return self.defaults.get(returns, self.defaults.get(re.sub(r"^(?:(?:const|volatile) )+", "", returns)))

    @property
    def unused(self) -> List[str]:
        return sorted(set(self.callbacks) - self.used)


def normal_type(text: str) -> str:
    return re.sub(r"\s*\*\s*", "*", " ".join(text.split()))


def load(path: Optional[pathlib.Path], failure_values: Sequence[str]) -> Decisions:
    """The command line says more than the file."""
    decisions = _read(path) if path is not None else Decisions()
    for text in failure_values:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise DecisionError(f"--failure-value {text!r}: write 'callback_name=EXPR'")
        where = f"--failure-value {name.strip()}"
        old = decisions.callbacks.get(name.strip(), Decision())
        decisions.callbacks[name.strip()] = dataclasses.replace(old, value=_expression(value, where))
    return decisions


def _read(path: pathlib.Path) -> Decisions:
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DecisionError(f"{path}: {error}") from None
    unknown = sorted(set(document) - {"callbacks", "defaults", "user_data", "view"})
    if unknown:
        raise DecisionError(f"{path}: {unknown[0]} is not known; there are callbacks, defaults, user_data, view")
    callbacks = {name: _decision(entry, f"{path}: {name}") for name, entry in _table(document, "callbacks", path)}
    defaults = {
        normal_type(name): _expression(_text(value, f"{path}: {name}"), f"{path}: {name}")
        for name, value in _table(document, "defaults", path)
    }
    view = _text(document.get("view", ""), f"{path}: view")
    user_data = document.get("user_data", True)
    if not isinstance(user_data, bool):
        raise DecisionError(f"{path}: user_data is neither true nor false")
    return Decisions(callbacks, defaults, _expression(view, f"{path}: view"), user_data)


def _table(document: Mapping[str, Any], key: str, path: pathlib.Path) -> Any:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise DecisionError(f"{path}: {key} is not a table")
    return table.items()


def _decision(entry: Any, where: str) -> Decision:
    """A string is short for `{ value = "..." }`."""
    if isinstance(entry, str):
        return Decision(value=_expression(entry, where))
    if not isinstance(entry, dict):
        raise DecisionError(f"{where} is neither a failure value nor a table")
    fields = {field.name for field in dataclasses.fields(Decision)}
    unknown = sorted(set(entry) - fields)
    if unknown:
        raise DecisionError(f"{where}: {unknown[0]} is not known; there are {', '.join(sorted(fields))}")
    accept = entry.get("accept", False)
    if not isinstance(accept, bool):
        raise DecisionError(f"{where}: accept is neither true nor false")
    texts = {key: _text(value, f"{where}: {key}") for key, value in entry.items() if key != "accept"}
    for key in texts.keys() & {"value", "view"}:
        texts[key] = _expression(texts[key], f"{where}: {key}")
    if "before" in texts:
        texts["before"] = _statements(texts["before"], f"{where}: before")
    return Decision(accept=accept, **texts)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DecisionError(f"{where} is not a string")
    return value.strip()


def _expression(text: str, where: str) -> str:
    """One C or C++ expression, or nothing at all."""
    text = text.strip()
    if text and not _is_inside(f"return {text};", ["return_statement"], text):
        raise DecisionError(f"{where}: {text!r} is no expression of C or C++ (in ASCII, on one line)")
    return text


def _statements(text: str, where: str) -> str:
    if text and not _is_inside(text, None, text):
        raise DecisionError(f"{where}: {text!r} is no statement of C or C++ (in ASCII, on one line, with its ;)")
    return text


def _is_inside(code: str, wanted: Optional[List[str]], text: str) -> bool:
    if not text.isascii() or not text.isprintable() or "//" in text:
        return False
    root = ctree.parser("cpp").parse(b"void f() { %b }" % code.encode()).root_node
    if root.has_error or [child.type for child in root.named_children] != ["function_definition"]:
        return False
    found = [child.type for child in root.named_children[0].child_by_field_name("body").named_children]
    return found == wanted if wanted is not None else bool(found)
