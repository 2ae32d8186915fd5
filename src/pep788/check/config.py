"""`[tool.pep788]` in the nearest pyproject.toml: what the command line would say each time."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import sys
from typing import Any, Dict, Optional, Tuple


class ConfigError(Exception):
    """A table that is wrong; the message names the file, the key, and what is expected."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Paths and globs are relative to `folder`, the one pyproject.toml is in."""

    folder: pathlib.Path = pathlib.Path()
    select: Tuple[str, ...] = ()
    ignore: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()
    baseline: Optional[str] = None
    notes: bool = False


def current_folder() -> pathlib.Path:
    """An empty path where it has been deleted, or may not be asked for."""
    try:
        return pathlib.Path.cwd()
    except OSError:
        return pathlib.Path()


def load(start: pathlib.Path) -> Config:
    """Look for the file from this folder upwards; the first one ends the search, whether it has the table or not."""
    for folder in [start, *start.parents]:
        path = folder / "pyproject.toml"
        if os.path.isfile(path):  # no error where a folder may not be looked into
            return _read(path)
    return Config()


def _read(path: pathlib.Path) -> Config:
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    tool = document.get("tool")
    table = tool.get("pep788", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [tool.pep788] is not a table")
    return Config(folder=path.parent, **_checked(table, path))


_LISTS = ("select", "ignore", "exclude")


def _checked(table: Dict[str, Any], path: pathlib.Path) -> Dict[str, Any]:
    values: Dict[str, Any] = {}
    for key, value in table.items():
        where = f"{path}: [tool.pep788] {key}"
        if key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{where} is not a list of strings")
            values[key] = tuple(value)
        elif key == "baseline":
            if not isinstance(value, str):
                raise ConfigError(f"{where} is not a string")
            values[key] = value
        elif key == "notes":
            if not isinstance(value, bool):
                raise ConfigError(f"{where} is neither true nor false")
            values[key] = value
        else:
            raise ConfigError(f"{where} is not known; there are {', '.join((*_LISTS, 'baseline', 'notes'))}")
    return values
