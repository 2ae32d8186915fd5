"""The package as a user has it: the tree's own files around a `_core` built from the tree's own header."""

from __future__ import annotations

import pathlib
import sys
import textwrap
from typing import Callable

import pytest
import support


@pytest.fixture(scope="session")
def package() -> pathlib.Path:
    """Folder to put on the path so that `import pep788` finds this tree, not an installed copy."""
    return support.build_package()


@pytest.fixture
def python(package: pathlib.Path) -> Callable[..., support.Result]:
    """Run Python code in a child that can import pep788."""

    def run(code: str, **options: object) -> support.Result:
        return support.run_child(textwrap.dedent(code), path=[package], **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def command(package: pathlib.Path) -> Callable[..., support.Result]:
    """Run `python -m pep788` with these arguments."""

    def run(*arguments: str) -> support.Result:
        return support.run_child([sys.executable, "-m", "pep788", *arguments], path=[package])

    return run
