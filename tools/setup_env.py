"""Make a virtual environment and install this checkout into it; says what to install when something is missing.

`make demo` and `make test` start here on a machine where nothing was set up, and `interpreters.py` makes the
environments of the matrix with the same functions.  Standard library only; runs on Python 3.9 and later.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("PEP788_BUILD_DIR") or CHECKOUT / "build")
ATTEMPTS = 3

# What a wheel is made of, and nothing else: a copy keeps parallel builds out of each other's way, and out of
# the checkout, where setuptools would also pack stale files from an older `build/lib`.
TOP_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md")
UNWANTED = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.so", "*.o", "*.egg-info")

SETUPTOOLS = "setuptools>=77"  # as in pyproject.toml: the SPDX form of `license`

# What the tests compile the headers for bindings against, whatever else an environment has: headers and sources only.
BINDINGS = {
    "pybind11-2": "pybind11==2.13.*",
    "pybind11-3": "pybind11==3.*",
    "nanobind-2": "nanobind==2.*",
    "nanobind-3": "nanobind==3.*",
}

PROBE = r"""
import importlib.util, json, os, shlex, shutil, sys, sysconfig
compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
include = sysconfig.get_path("include")
json.dump({
    "executable": sys.executable,
    "version": list(sys.version_info[:3]),
    "build": sys.version,
    "implementation": sys.implementation.name,
    "debug": hasattr(sys, "gettotalrefcount"),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "compiler": compiler[0] if shutil.which(compiler[0]) else "",
    "include": include if os.path.exists(os.path.join(include, "Python.h")) else "",
    "venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
}, sys.stdout)
"""

COMPILER_HELP = """no C compiler was found ({python} would use one).
  Debian, Ubuntu: apt install build-essential      Fedora: dnf install gcc gcc-c++ make
  Alpine: apk add build-base                       macOS: xcode-select --install"""
HEADERS_HELP = """the C headers of {python} (Python.h) are not installed.
  Debian, Ubuntu: apt install python{minor}-dev    Fedora: dnf install python3-devel
  Alpine: apk add python3-dev                      or name another Python: make PYTHON=/path/to/python3 ..."""
VENV_HELP = """{python} has no working venv module (venv and ensurepip).
  Debian, Ubuntu: apt install python{minor}-venv   elsewhere it comes with Python itself,
                                                   or name another Python: make PYTHON=/path/to/python3 ..."""
VERSION_HELP = """{python} is {implementation} {version}; CPython 3.9 or newer is needed.
  Name another Python: make PYTHON=/path/to/python3 ..."""


class SetupError(Exception):
    """Something the user has to install or correct; the message says what."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an interpreter says about itself."""

    executable: str
    version: tuple[int, int, int]
    build: str
    implementation: str
    debug: bool
    free_threaded: bool
    compiler: str
    include: str
    venv: bool

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))


def probe(command: Sequence[str], env: Mapping[str, str] | None = None) -> Facts | None:
    """Ask an interpreter what it is; None when it cannot be run (a pyenv shim of a version not chosen, ...)."""
    try:
        done = subprocess.run(
            [*command, "-I", "-c", PROBE], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if answer is None:
        return None
    answer["version"] = tuple(answer["version"])
    return Facts(**answer)


def check(facts: Facts, shown: str) -> None:
    """Refuse an interpreter that cannot build an extension, naming everything to install at once."""
    words = {
        "python": shown,
        "minor": "{}.{}".format(*facts.version),
        "version": facts.text,
        "implementation": facts.implementation,
    }
    if facts.implementation != "cpython" or facts.version < (3, 9):
        raise SetupError(VERSION_HELP.format(**words))
    wrong = [
        text.format(**words)
        for text, fine in ((COMPILER_HELP, facts.compiler), (HEADERS_HELP, facts.include), (VENV_HELP, facts.venv))
        if not fine
    ]
    if wrong:
        raise SetupError("\n".join(wrong))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two runs at once do not make the same thing twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_quietly(
    argv: Sequence[str], *, what: str, env: Mapping[str, str] | None = None, attempts: int = 1, cwd: Path | None = None
) -> None:
    """Run a set-up step and show its output only if it fails; downloads deserve a second attempt."""
    for attempt in range(1, attempts + 1):
        done = subprocess.run(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode == 0:
            return
        if attempt < attempts:
            time.sleep(2 * attempt)
    raise SetupError(f"{what} failed with status {done.returncode}:\n{done.stdout[-6000:]}")


def sources() -> list[Path]:
    """The files the package is built from."""
    found = [CHECKOUT / name for name in TOP_FILES if (CHECKOUT / name).exists()]
    found += sorted(CHECKOUT.glob("LICENSE*"))
    unwanted = (".so", ".o", ".pyc", ".pyo", ".pyd")
    for path in sorted((CHECKOUT / "src").rglob("*")):
        parts = path.relative_to(CHECKOUT).parts
        if path.is_file() and path.suffix not in unwanted and not any(
            part == "__pycache__" or part.endswith(".egg-info") for part in parts
        ):
            found.append(path)
    return found


def source_digest() -> str:
    """Changes when the package has to be built again."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(str(path.relative_to(CHECKOUT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def copy_sources(target: Path) -> None:
    """Put the package's own files, and nothing a build left behind, into a fresh directory."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sources():
        if path.parent == CHECKOUT:
            shutil.copy2(path, target)
    shutil.copytree(CHECKOUT / "src", target / "src", ignore=UNWANTED)


class Environment:
    """A virtual environment with this checkout installed in it.

    `command` runs the base interpreter, perhaps through a chroot; `prefix` is what has to stand before any program
    of the environment (nothing on the host).
    """

    def __init__(
        self,
        path: Path,
        command: Sequence[str],
        facts: Facts,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.facts = facts
        self.env = clean_env(os.environ if env is None else env)
        self._command = list(command)
        self._prefix = list(prefix)

    @property
    def python(self) -> list[str]:
        """What to run instead of `python`."""
        return [*self._prefix, str(self.path / "bin" / "python")]

    def install(self, extras: Sequence[str], *, announce: bool = False) -> bool:
        """Bring the environment up to date; returns False when there was nothing to do."""
        with locked(BUILD / "locks" / f"{self.path.parent.name}-{self.path.name}"):
            state = self._read_state()
            identity = f"{self.facts.executable} {self.facts.build} {SETUPTOOLS}"
            if state.get("identity") != identity:
                if announce:
                    print(f"making {self.path} with Python {self.facts.text} ...", flush=True)
                self._create()
                state = {"identity": identity, "extras": [], "sources": ""}
            digest = source_digest()
            wanted = sorted({*state["extras"], *extras})
            if state["sources"] == digest and state["extras"] == wanted:
                return False
            if announce:
                print(f"installing pep788 into {self.path} ...", flush=True)
            self._install_package(wanted)
            self._write_state({"identity": identity, "extras": wanted, "sources": digest})
            return True

    def unpack_bindings(self) -> Path:
        """Put each release of BINDINGS into a folder of its own, for all interpreters alike."""
        folder = BUILD / "bindings"
        with locked(BUILD / "locks" / "bindings"):
            for name, requirement in BINDINGS.items():
                if not (folder / name).is_dir():
                    scratch = folder / f"{name}.new"
                    shutil.rmtree(scratch, ignore_errors=True)
                    # nanobind 3 says it is not for 3.9; which interpreters run it is the tests' business.
                    options = ["--no-deps", "--ignore-requires-python", "--target", str(scratch)]
                    self._pip(*options, requirement, what=f"downloading {requirement}")
                    scratch.rename(folder / name)
        return folder

    def _create(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        run_quietly([*self._command, "-m", "venv", str(self.path)], what=f"making {self.path}", env=self.env)
        self._pip(SETUPTOOLS, what=f"installing setuptools into {self.path}")

    def _install_package(self, extras: Sequence[str]) -> None:
        copy = self.path / "pep788-source"
        copy_sources(copy)
        what = f"installing pep788 into {self.path}"
        # No build isolation: it would download setuptools again for each build of each interpreter.
        self._pip("--no-build-isolation", f"{copy}[{','.join(extras)}]" if extras else str(copy), what=what)

    def _pip(self, *arguments: str, what: str) -> None:
        pip = [*self.python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--upgrade"]
        # `.`, as pip looks at the current directory: src/ and build/ of the checkout are not to be found there.
        run_quietly([*pip, *arguments], what=what, env=self.env, attempts=ATTEMPTS, cwd=self.path)

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.path / "pep788-state.json").read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and (self.path / "bin" / "python").is_symlink() else {}

    def _write_state(self, state: Mapping[str, Any]) -> None:
        (self.path / "pep788-state.json").write_text(json.dumps(state))


def clean_env(env: Mapping[str, str]) -> dict[str, str]:
    """Drop what would make one interpreter use the modules of another."""
    unwanted = {"PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET"}
    unwanted |= {"PIP_USER", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"}
    return {key: value for key, value in env.items() if key not in unwanted}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=CHECKOUT / ".venv", help="default: .venv in the checkout")
    parser.add_argument("--extra", action="append", default=[], help="test, bench, dev, docs; may be repeated")
    options = parser.parse_args()
    facts = probe([sys.executable])
    assert facts is not None, "the running interpreter cannot be run"
    try:
        check(facts, sys.executable)
        environment = Environment(options.venv.resolve(), [sys.executable], facts)
        environment.install(options.extra, announce=True)
        if "test" in options.extra:
            environment.unpack_bindings()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
