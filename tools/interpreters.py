"""The interpreters of the matrix: finds them, or makes them, and gives each an environment of its own.

    python3 tools/interpreters.py list              what there is, and where
    python3 tools/interpreters.py make [NAME...]    make what is missing, install pep788 and pytest in each
    python3 tools/interpreters.py run NAME ARG...   run that interpreter
    python3 tools/interpreters.py sid               make the Debian sid chroot only (the one step that needs root)
    python3 tools/interpreters.py clean [--all]     delete what was built; --all: the chroot, too

An interpreter is taken from PEP788_PYTHON_<NAME> (dots as underscores: PEP788_PYTHON_3_13_0), from PATH, from pyenv,
and else from a Debian sid chroot or from `pyenv install`.  Names are checked against what the interpreter itself
says, so that a wrong one is never tested under a right name.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import sid
from setup_env import BUILD, Environment, Facts, SetupError, check, clean_env, locked, probe, run_quietly

EXTRAS = ("test",)


class MissingError(SetupError):
    """An interpreter is not there and could not be made."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A column of the matrix. `patch` of None means any, or the newest that is found."""

    name: str
    version: tuple[int, int]
    patch: int | None = None
    newer_than: int = -1  # excludes patch releases that are a column of their own
    debug: bool = False
    sid: str = ""  # the program in the Debian sid chroot
    variant_of: str = ""  # shares that column's environment
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def accepts(self, facts: Facts) -> bool:
        return (
            facts.implementation == "cpython"
            and not facts.free_threaded
            and facts.debug == self.debug
            and facts.version[:2] == self.version
            and facts.version[2] > self.newer_than
            and self.patch in (None, facts.version[2])
        )

    @property
    def pyenv_name(self) -> str:
        """What `pyenv install` calls it; empty for what pyenv cannot make under a stable name."""
        if self.debug or self.sid:
            return ""
        return "{}.{}".format(*self.version) + (f".{self.patch}" if self.patch is not None else "")


SPECS = (
    Spec("3.9", (3, 9)),
    Spec("3.10", (3, 10)),
    Spec("3.11", (3, 11)),
    Spec("3.12", (3, 12)),
    Spec("3.13.0", (3, 13), patch=0),
    Spec("3.13", (3, 13), newer_than=0, sid="python3.13"),
    Spec("3.14", (3, 14), sid="python3.14"),
    Spec("3.15", (3, 15), sid="python3.15"),
    Spec("3.14d", (3, 14), debug=True, sid="python3.14-dbg"),
    Spec("3.15d", (3, 15), debug=True, sid="python3.15-dbg"),
    Spec("3.15-always", (3, 15), variant_of="3.15", env={"PEP788_TEST_ALWAYS": "1"}),
)
BY_NAME = {spec.name: spec for spec in SPECS}


@dataclasses.dataclass(frozen=True)
class Column:
    """An interpreter ready for tests. `build` is a directory that no other column writes to."""

    name: str
    facts: Facts
    python: tuple[str, ...]
    env: Mapping[str, str]
    build: Path


@dataclasses.dataclass(frozen=True)
class Found:
    """An interpreter and how to run it."""

    facts: Facts
    command: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    where: str = "this machine"


@functools.lru_cache(maxsize=None)
def chroot() -> sid.Chroot:
    return sid.Chroot()


@functools.lru_cache(maxsize=None)
def probe_host(path: str) -> Facts | None:
    return probe([path], env=clean_env(os.environ))


def pyenv_root() -> Path | None:
    """Where pyenv keeps its versions, asked of pyenv itself."""
    if os.environ.get("PYENV_ROOT"):
        return Path(os.environ["PYENV_ROOT"])
    if shutil.which("pyenv") is None:
        return None
    done = subprocess.run(["pyenv", "root"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def candidates(spec: Spec) -> Iterator[str]:
    """Programs on this machine that may be the wanted interpreter, each real file once."""
    minor = "{}.{}".format(*spec.version)
    names = [f"python{minor}-dbg", f"python{minor}d"] if spec.debug else [f"python{minor}", "python3", "python"]
    paths = [Path(folder, name) for name in names for folder in os.get_exec_path()]
    root = pyenv_root()
    if root is not None:
        paths += sorted((root / "versions").glob(f"{minor}*/bin/python{minor}"), key=natural, reverse=True)
    seen = set()
    for path in paths:
        if os.access(path, os.X_OK) and path.resolve() not in seen:
            seen.add(path.resolve())
            yield str(path)


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort 3.9.18 after 3.9.2."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in path.parts[-3].split(".")]


def find(spec: Spec) -> Found | None:
    """Look on this machine, then in the chroot if it is there; makes nothing."""
    override = os.environ.get(override_name(spec))
    if override:
        facts = probe_host(override)
        if facts is None or not spec.accepts(facts):
            said = f"Python {facts.text}" if facts else "not to be run"
            raise SetupError(f"{override} was given for {spec.name}, but is {said}")
        return Found(facts, (override,))
    for path in candidates(spec):
        facts = probe_host(path)
        if facts is not None and spec.accepts(facts):
            return Found(facts, (path,))
    if spec.sid and (chroot().root / "usr/bin" / spec.sid).exists():
        inside = chroot()
        prefix = tuple(inside.prefix())
        facts = probe([*prefix, spec.sid], env=inside.env)
        if facts is not None and spec.accepts(facts):
            return Found(facts, (*prefix, spec.sid), prefix, inside.env, str(inside.root))
    return None


def find_or_make(spec: Spec) -> Found:
    """Find an interpreter that can build extensions, or make one by debootstrap or pyenv."""
    try:
        found = find(spec)
        if spec.sid and (found is None or found.prefix):
            chroot().ensure()
            found = find(spec)
        elif found is None and spec.pyenv_name and shutil.which("pyenv"):
            make_with_pyenv(spec)
            found = find(spec)
        if found is None:
            raise SetupError(f"no Python {spec.name} was found; install it or set {override_name(spec)}")
        check(found.facts, f"Python {spec.name} ({found.facts.executable})")
    except SetupError as error:
        raise MissingError(str(error)) from error
    return found


def override_name(spec: Spec) -> str:
    return "PEP788_PYTHON_" + spec.name.replace(".", "_").upper()


def make_with_pyenv(spec: Spec) -> None:
    """Build a release from source: some minutes."""
    with locked(BUILD / "locks" / "pyenv"):
        print(f"building Python {spec.name} with pyenv (some minutes) ...", flush=True)
        options = os.environ.get("PYTHON_CONFIGURE_OPTS", "")
        env = {**os.environ, "PYTHON_CONFIGURE_OPTS": f"--enable-shared {options}".strip()}
        argv = ["pyenv", "install", "--skip-existing", spec.pyenv_name]
        run_quietly(argv, what=f"pyenv install {spec.pyenv_name}", env=env, attempts=2)


def prepare(name: str) -> Column:
    """Give a column its environment, up to date with the checkout."""
    spec = BY_NAME[name]
    found = find_or_make(BY_NAME[spec.variant_of] if spec.variant_of else spec)
    venv = BUILD / "venvs" / (spec.variant_of or name)
    environment = Environment(venv, found.command, found.facts, prefix=found.prefix, env=found.env)
    environment.install(EXTRAS)
    build = BUILD / "columns" / name
    build.mkdir(parents=True, exist_ok=True)
    env = dict(environment.env)
    path = env.get("PATH", os.defpath)
    env.update(
        spec.env,
        PATH=f"{venv / 'bin'}{os.pathsep}{path}",  # so that `pep788` is this column's
        PEP788_BUILD_DIR=str(build),
        PEP788_TEST_BUILD=str(build / "tests"),
        PEP788_TEST_BINDINGS=str(environment.unpack_bindings()),
        PYTHONDONTWRITEBYTECODE="1",  # debug and release builds share the names of their .pyc files
    )
    headers = oldest_headers()
    if headers is not None:
        env["PEP788_TEST_HEADERS39"] = str(headers)
    return Column(name, found.facts, tuple(environment.python), env, build)


@functools.lru_cache(maxsize=None)
def oldest_headers() -> Path | None:
    """A copy of 3.9's headers in the checkout, which the chroot sees too: abi3 modules are compiled with them."""
    found = find(BY_NAME["3.9"])
    if found is None:
        return None
    ask = [*found.prefix, *found.command, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    include = subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    target = BUILD / "headers-3.9"
    with locked(BUILD / "locks" / "headers"):
        if not target.is_dir():
            scratch = target.with_suffix(".new")
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(include, scratch)
            scratch.rename(target)
    return target


def select(names: Sequence[str]) -> list[str]:
    """The columns that were asked for, all by default."""
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise SetupError(f"no such interpreter: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    return list(names) or list(BY_NAME)


def command_list() -> int:
    status = 0
    for name in BY_NAME:
        found = find(BY_NAME[BY_NAME[name].variant_of or name])
        if found is None:
            how = "made by debootstrap when needed" if BY_NAME[name].sid else "not found"
            print(f"{name:12} -         {how}")
            status = 1
        else:
            print(f"{name:12} {found.facts.text:9} {found.facts.executable} ({found.where})")
    return status


def command_make(names: Sequence[str], allow_missing: bool) -> int:
    missing = broken = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        wanted = {name: pool.submit(prepare, name) for name in select(names)}
        for name, future in wanted.items():
            try:
                print(f"{name:12} {future.result().facts.text:9} ready", flush=True)
            except MissingError as error:
                missing += 1
                print(f"{name:12} missing: {error}", flush=True)
            except SetupError as error:
                broken += 1
                print(f"{name:12} {error}", flush=True)
    print(f"{len(wanted) - missing - broken} passed, {missing + broken} failed")
    return 1 if broken or (missing and not allow_missing) else 0


def command_run(name: str, arguments: Sequence[str]) -> int:
    column = prepare(select([name])[0])
    argv = [*column.python, *arguments]
    sys.stdout.flush()
    os.execvpe(argv[0], argv, dict(column.env))


def command_clean(everything: bool) -> int:
    """Delete build products; the chroot and pip's cache take long to get again."""
    if everything:
        sid.remove(BUILD)
        return 0
    kept = {"sid", "pip-cache", "locks"}
    for path in BUILD.iterdir() if BUILD.is_dir() else ():
        if path.name not in kept:
            sid.remove(path) if path.is_dir() else path.unlink()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("sid")
    make = commands.add_parser("make")
    make.add_argument("names", nargs="*", metavar="NAME")
    make.add_argument("--allow-missing", action="store_true")
    run = commands.add_parser("run")
    run.add_argument("name", metavar="NAME")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")
    clean = commands.add_parser("clean")
    clean.add_argument("--all", action="store_true")
    options = parser.parse_args()
    try:
        if options.command == "list":
            return command_list()
        if options.command == "make":
            return command_make(options.names, options.allow_missing)
        if options.command == "run":
            return command_run(options.name, options.arguments)
        if options.command == "clean":
            return command_clean(options.all)
        chroot().ensure()
        return 0
    except SetupError as error:
        print(f"interpreters: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
