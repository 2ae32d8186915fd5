"""The package as a user has it: the tree's own files around a `_core` built from the tree's own header."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import shutil
import sys
import tempfile
import textwrap
from typing import Callable

import pytest
import support

SOURCE = support.REPO / "src" / "pep788"
CORE = [SOURCE / "_core.c", SOURCE / "_watchdog.c"]


def _package_files() -> list[pathlib.Path]:
    patterns = ("*.py", "*.pyi", "*.pxd", "py.typed", "*.cmake", "*.pc")
    kept = (path for pattern in patterns for path in SOURCE.rglob(pattern))
    return sorted(path for path in kept if "__pycache__" not in path.parts)


@functools.lru_cache(maxsize=None)
def build_package(callback: bool = False) -> pathlib.Path:
    """Folder to put on the path so that `import pep788` finds this tree, not an installed copy.

    `callback`: with what pep788.callback needs, for which libffi's headers must be installed.
    """
    modules = [support.build_extension("_core", CORE, defines=["PEP788_ALWAYS"])]
    if callback:
        source, always = SOURCE / "_callback.c", ["PEP788_ALWAYS"]
        modules.append(support.build_extension("_callback", [source], defines=always, ldflags=["-lffi"]))
    if sys.platform == "linux":
        modules.append(support.build_extension("_shield", [SOURCE / "_shield.c"], ldflags=["-ldl"]))
    built = {path: "." for folder in modules for path in folder.iterdir()}
    if sys.platform == "linux":
        source, flags = SOURCE / "stress" / "_probe.c", ["-fexceptions"]
        built[support.build_library("_probe", [source], extra=flags, ldflags=["-ldl"])] = "stress"
    seen = hashlib.sha256(" ".join(sorted(path.parent.name for path in built)).encode())
    for path in _package_files():
        seen.update(str(path.relative_to(SOURCE)).encode() + path.read_bytes())
    folder = support.BUILD / f"package-{seen.hexdigest()[:16]}"
    if not folder.is_dir():
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="package-", dir=support.BUILD))
        target = scratch / "pep788"
        for path in _package_files():
            place = target / path.relative_to(SOURCE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        for path, where in built.items():
            shutil.copy(path, target / where)
        shutil.copytree(support.INCLUDE, target / "include")
        support._publish(scratch, folder)
    return folder


@pytest.fixture(scope="session")
def package() -> pathlib.Path:
    """The folder with the package of this tree."""
    return build_package()


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
