"""Compile the demo's programs with the user's own compiler, against the running interpreter."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

from .._processes import kill_session

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
INCLUDE = HERE.parent / "include"


class SetupError(Exception):
    """Something the user has to install; the message says what."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One way of building the same program."""

    key: str
    title: str
    flags: tuple[str, ...]
    judged: bool = False
    """Bad outcomes here are the demo's own failure (exit status 1)."""


OLD = Column("old", "PyGILState", ())
NEW = Column("new", "pep788", ("-DDEMO_PEP788",), judged=True)
NATIVE = Column("new", "native", ("-DDEMO_PEP788",), judged=True)
ALWAYS = Column("always", "pep788", ("-DDEMO_PEP788", "-DPEP788_ALWAYS"), judged=True)
RECOMPILED = Column("recompiled", "recompiled", ("-DPEP788_REPLACE_GILSTATE", "-include", "pep788.h"), judged=True)


def columns() -> list[Column]:
    """The columns that mean something on this interpreter."""
    if sys.version_info >= (3, 15):
        return [OLD, NATIVE, ALWAYS, RECOMPILED]
    return [OLD, NEW, RECOMPILED]


def compiler(language: str) -> list[str]:
    """The compiler command, or SetupError naming what to install."""
    variable, names = ("CXX", ("c++", "g++", "clang++")) if language == "c++" else ("CC", ("cc", "gcc", "clang"))
    candidates = [os.environ.get(variable), sysconfig.get_config_var(variable), *names]
    for candidate in candidates:
        words = shlex.split(candidate or "")
        # sysconfig's flags are those of the machine that built Python: only the name is of use.
        if words and shutil.which(words[0]):
            return words if candidate == os.environ.get(variable) else words[:1]
    what = "C++" if language == "c++" else "C"
    debian, fedora = ("g++", "gcc-c++") if language == "c++" else ("gcc", "gcc")
    raise SetupError(
        f"no {what} compiler found (tried {', '.join(names)} and ${variable}). Install one:\n"
        f"  Debian, Ubuntu: apt install {debian}    Fedora: dnf install {fedora}    "
        "Alpine: apk add build-base    macOS: xcode-select --install"
    )


def check_setup() -> None:
    """Say what is missing before anything is compiled."""
    if os.name != "posix":
        raise SetupError("the demo needs POSIX threads and signals: run it on Linux, macOS or WSL")
    if sys.implementation.name != "cpython":
        raise SetupError(f"the demo needs CPython, this is {sys.implementation.name}")
    compiler("c")
    if not (INCLUDE / "pep788.h").is_file():
        raise SetupError(f"{INCLUDE / 'pep788.h'} is missing: reinstall pep788")
    if not any((folder / "Python.h").is_file() for folder in _python_includes()):
        minor = "{}.{}".format(*sys.version_info[:2])
        raise SetupError(
            f"Python.h of this interpreter is not in {_python_includes()[0]}. Install it:\n"
            f"  Debian, Ubuntu: apt install python{minor}-dev    Fedora: dnf install python3-devel"
            "    Alpine: apk add python3-dev"
        )


def build_module(source: str, column: Column, target: pathlib.Path) -> str | None:
    """Build the extension module `program` into `target`; the reason when the compiler refuses."""
    language = "c++" if source.endswith(".cpp") else "c"
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    command = [
        *compiler(language),
        "-std=c++11" if language == "c++" else "-std=gnu11",
        *_shared_flags(),
    ]
    command += column.flags
    command += [f"-I{folder}" for folder in [INCLUDE, *_python_includes()]]
    command += [str(PROGRAMS / source), "-o", str(target / f"program{suffix}")]
    command += ["-lrt"] if sys.platform.startswith("linux") else []  # glibc before 2.34 has timer_create there
    return _compile(command, target)


def build_preload(source: str, target: pathlib.Path) -> str | None:
    """Build a library for LD_PRELOAD into `target`; the reason when the compiler refuses."""
    command = [
        *compiler("c"),
        "-std=gnu11",
        *_shared_flags(),
        f"-I{PROGRAMS}",
        str(PROGRAMS / source),
    ]
    return _compile([*command, "-o", str(target / "preload.so"), "-ldl"], target)


def _shared_flags() -> list[str]:
    flags = ["-O2", "-fPIC", "-pthread"]
    return [*flags, "-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [*flags, "-shared"]


def _python_includes() -> list[pathlib.Path]:
    found = [pathlib.Path(sysconfig.get_path(key)) for key in ("include", "platinclude")]
    return found[:1] if found[0] == found[1] else found


def _compile(command: list[str], target: pathlib.Path) -> str | None:
    """Compile; what the compiler leaves when it is interrupted is in `target`."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(target)},
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        kill_session(process)  # the driver alone would leave the passes it started
        raise
    if process.returncode == 0:
        return None
    errors = [line for line in output.splitlines() if "error" in line] or output.splitlines()
    return "\n".join([shlex.join(command), *(f"  {line}" for line in errors[:5])])
