"""Find the interpreters that --python names: a path, a version on PATH, or one of pyenv's or uv's."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

VERSION = re.compile(r"(\d+(?:\.\d+){0,2})([a-z]*)")
PYTHON = re.compile(r"(python|pypy)[\d.]*[a-z]*(\.exe)?")


class NotFoundError(Exception):
    """There is no such interpreter; the message says where it was looked for."""


def find(name: str) -> str:
    """The path of the interpreter that ``name`` stands for, such as "3.12", "3.13.0", "3.14t" or a path."""
    if os.sep in name or not VERSION.fullmatch(name):
        found = shutil.which(name)
        if found is None:
            raise NotFoundError(f"--python {name}: no such program; give a path, or a version such as 3.12")
        return found
    for candidate in _candidates(name):
        if os.access(candidate, os.X_OK):
            return candidate
    raise NotFoundError(
        f"--python {name}: not on PATH (python{name}), not among pyenv's versions, not among uv's; give its path"
    )


def _candidates(version: str) -> Iterator[str]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None and "shims" not in pathlib.Path(on_path).parts:  # pyenv's shims fail if none is active
        yield on_path
    yield from _of_pyenv(version)
    yield from _of_uv(version)


def _of_pyenv(version: str) -> Iterator[str]:
    """The newest first; one that is no release, such as 3.15.0rc1 or 3.15-dev, last."""
    root = pathlib.Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    wanted = VERSION.fullmatch(version)
    assert wanted is not None, version
    name = re.compile(rf"({re.escape(wanted[1])}(?:\.\d+)*)((?:a|b|rc)\d+|-dev)?{wanted[2]}")  # 3.14 is not 3.14.0t
    found = [(match, folder) for folder in root.glob("versions/*") if (match := name.fullmatch(folder.name))]
    found.sort(key=lambda pair: (pair[0][2] is None, [int(n) for n in pair[0][1].split(".")]), reverse=True)
    for _, folder in found:
        yield str(folder / "bin" / "python")


def _of_uv(version: str) -> Iterator[str]:
    uv = shutil.which("uv")
    if uv is None:
        return
    words = [uv, "python", "find", "--no-project", "--offline", version]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return
    if done.returncode == 0 and done.stdout.strip():
        yield done.stdout.strip()


def version_of(executable: str) -> str:
    """The version that an interpreter states of itself; raises NotFoundError if it does not run."""
    code = "import json, platform; print(json.dumps(platform.python_version()))"
    try:
        done = subprocess.run(
            [executable, "-I", "-S", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        return str(json.loads(done.stdout))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFoundError(f"{executable} does not run: {error}") from error
    except ValueError as error:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise NotFoundError(f"{executable} is no Python 3 ({said}): give another one with --python") from error


def is_python(word: str) -> bool:
    """Whether the first word of a command names an interpreter, which --python can replace."""
    return PYTHON.fullmatch(pathlib.PurePath(word).name) is not None
