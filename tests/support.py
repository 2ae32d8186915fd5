"""What every test of pep788 shares: building C against the header and running children that may crash or hang.

Runs on Python 3.9 and later, by the interpreter under test.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Union

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent
# PEP788_TEST_INCLUDE lets the tests themselves be developed against another header.
INCLUDE = pathlib.Path(os.environ.get("PEP788_TEST_INCLUDE") or REPO / "src" / "pep788" / "include")
BUILD = pathlib.Path(os.environ.get("PEP788_TEST_BUILD") or REPO / "build" / "tests")
BINDINGS = pathlib.Path(os.environ.get("PEP788_TEST_BINDINGS") or REPO / "build" / "bindings")
"""The releases of pybind11 and nanobind that tools/setup_env.py unpacks, one folder each."""

HAS_NATIVE = sys.version_info >= (3, 15)
ALWAYS = HAS_NATIVE and os.environ.get("PEP788_TEST_ALWAYS") == "1"
NATIVE = HAS_NATIVE and not ALWAYS
"""CPython's own functions are under test: what the contract marks "ours" does not hold."""

DEBUG_BUILD = hasattr(sys, "gettotalrefcount")
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

needs_limited_api = pytest.mark.skipif(
    FREE_THREADED, reason="no abi3 for free-threaded builds: Python.h of 3.13t and 3.14t stops at Py_LIMITED_API with #error"
)

TRIES = max(1, int(os.environ.get("PEP788_TEST_TRIES") or 1))
"""Scale of loops that look for races: 1 keeps the suite short, `make stress` raises it."""

OUTPUT_LIMIT = 1_000_000


def tries(count: int) -> int:
    """How often a loop that does `count` rounds by default runs here."""
    return count * TRIES


def ours_only(reason: str) -> pytest.MarkDecorator:
    """Mark a test of a promise that native 3.15 does not make; `reason` says what native does instead."""
    return pytest.mark.skipif(NATIVE, reason=f"ours only: {reason}")


def tracked_files() -> List[pathlib.Path]:
    """What git knows of the checkout, as relative paths; skips the test where there is no git or no checkout."""
    words = ["git", "-C", str(REPO), "ls-files", "-z"]
    if shutil.which("git") is None or not (REPO / ".git").exists():
        pytest.skip("needs git and a checkout")
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        pytest.skip(f"git: {done.stderr.strip()}")  # a worktree in a chroot, a folder of another user
    names = filter(None, done.stdout.split("\0"))
    return [pathlib.Path(name) for name in names if (REPO / name).is_file()]


# --- building -------------------------------------------------------------------------------------------------


def build_extension(
    name: str,
    sources: Iterable[Union[str, pathlib.Path]],
    *,
    defines: Sequence[str] = (),
    language: str = "c",
    std: Optional[str] = None,
    limited: Optional[str] = None,
    extra: Sequence[str] = (),
    ldflags: Sequence[str] = (),
) -> pathlib.Path:
    """Build an extension module; returns the directory to put on `sys.path`.

    `defines` are "NAME" or "NAME=VALUE"; `limited` is the value of Py_LIMITED_API, such as "0x03090000".
    """
    if limited:
        defines = [*defines, f"Py_LIMITED_API={limited}"]
    suffix = ".abi3.so" if limited else sysconfig.get_config_var("EXT_SUFFIX")
    flags = ["-shared", "-fPIC", *extra]
    if sys.platform == "darwin":
        flags += ["-undefined", "dynamic_lookup"]
    return _build(name + suffix, sources, defines, language, std, flags, list(ldflags)).parent


def build_program(
    name: str,
    sources: Iterable[Union[str, pathlib.Path]],
    *,
    defines: Sequence[str] = (),
    language: str = "c",
    std: Optional[str] = None,
    limited: Optional[str] = None,
    extra: Sequence[str] = (),
    ldflags: Sequence[str] = (),
) -> pathlib.Path:
    """Build a program that embeds the interpreter under test; returns its path. Run it with `run_child([path])`."""
    if limited:
        defines = [*defines, f"Py_LIMITED_API={limited}"]
    return _build(name, sources, defines, language, std, list(extra), [*ldflags, *_libpython_flags()])


def build_library(
    name: str,
    sources: Iterable[Union[str, pathlib.Path]],
    *,
    language: str = "c",
    extra: Sequence[str] = (),
    ldflags: Sequence[str] = (),
) -> pathlib.Path:
    """Build a shared library that knows nothing of Python; returns its path."""
    return _build(name + ".so", sources, [], language, None, ["-shared", "-fPIC", *extra], list(ldflags))


@functools.lru_cache(maxsize=None)
def has_ffi() -> bool:
    """Whether libffi's headers are installed, which pep788.callback is built with."""
    command = [*compile_command(), "-E", "-x", "c", "-"]
    text = "#if !__has_include(<ffi.h>)\n#error\n#endif\n"
    return subprocess.run(command, input=text, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def compile_command(language: str = "c", std: Optional[str] = None, defines: Sequence[str] = ()) -> List[str]:
    """The compiler and the flags every test source is built with."""
    if language == "c++":
        compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    else:
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = [shlex.split(compiler)[0], "-O1", "-g", "-UNDEBUG", "-pthread"]
    command += ["-Wall", "-Wextra", "-Werror"]
    # CPython's own signatures (self, unused) and method tables trip these; tests/compile is strict about the header.
    command += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
    command += [f"-std={std}"] if std else []
    command += [f"-D{define}" for define in _all_defines(defines)]
    command += ["-I", str(INCLUDE)]
    if re.search(r"gcc|g\+\+", pathlib.Path(command[0]).name):
        # Debian's debug headers are links into the release ones, and gcc resolves system headers: Py_DEBUG got lost.
        command += ["-fno-canonical-system-headers"]
    for key in ("include", "platinclude"):
        command += ["-isystem", sysconfig.get_path(key)]
    return command + shlex.split(os.environ.get("PEP788_TEST_CFLAGS", ""))


def _all_defines(defines: Sequence[str]) -> List[str]:
    always = ["PEP788_ALWAYS"] if ALWAYS and "PEP788_ALWAYS" not in defines else []
    return [*defines, *always]


def _libpython_flags() -> List[str]:
    variables = sysconfig.get_config_vars()
    libdir, library = variables.get("LIBDIR"), variables.get("LDLIBRARY") or ""
    link_name = "-lpython" + str(variables.get("LDVERSION"))
    if variables.get("Py_ENABLE_SHARED"):
        return [f"-L{libdir}", f"-Wl,-rpath,{libdir}", link_name]
    if not (library.endswith(".a") and variables.get("LIBPL")):
        pytest.skip("this interpreter has no libpython to embed")
    system = shlex.split(" ".join(str(variables.get(key) or "") for key in ("LIBS", "SYSLIBS", "LINKFORSHARED")))
    return [f"-L{variables['LIBPL']}", f"-L{libdir}", link_name, *system]


def _build(
    output: str,
    sources: Iterable[Union[str, pathlib.Path]],
    defines: Sequence[str],
    language: str,
    std: Optional[str],
    flags: Sequence[str],
    ldflags: Sequence[str],
) -> pathlib.Path:
    paths = [pathlib.Path(source).resolve() for source in sources]
    command = compile_command(language, std, defines) + list(flags)
    as_language = ["-x", language] if language == "c++" else []
    folder = BUILD / f"{output.split('.')[0]}-{_digest(paths, [output, *command, *ldflags])}"
    if (folder / output).exists():
        return folder / output
    BUILD.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=output.split(".")[0] + "-", dir=BUILD))
    try:
        command += [*as_language, *map(str, paths), *(["-x", "none"] if as_language else [])]
        command += ["-o", str(scratch / output), *ldflags]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            pytest.fail(f"does not compile: {shlex.join(command)}\n{done.stdout[-8000:]}", pytrace=False)
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / output


def _publish(scratch: pathlib.Path, folder: pathlib.Path) -> None:
    """Rename into place, so that a concurrent run never loads half a library."""
    scratch.chmod(0o755)
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise  # somebody else having built the same is the only harmless reason


def _digest(sources: Sequence[pathlib.Path], command: Sequence[str]) -> str:
    seen = hashlib.sha256()
    folders = {REPO / "tests", *(source.parent for source in sources)}
    headers = {header for folder in folders for header in folder.glob("*.h*")}
    headers.update(path for path in INCLUDE.rglob("*") if path.is_file())
    for path in [*sources, *sorted(headers)]:
        seen.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    config = [str(sysconfig.get_config_var(key)) for key in ("EXT_SUFFIX", "LIBDIR", "INCLUDEPY", "LDVERSION")]
    seen.update("\0".join([sys.version, *config, *command]).encode())
    return seen.hexdigest()[:16]


# --- running --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Result:
    """How a child ended. `signal` is the signal number that killed it, or None; `hung` means we killed it."""

    returncode: int
    signal: Optional[int]
    out: str
    err: str
    hung: bool
    seconds: float

    def check(self, status: int = 0) -> "Result":
        """Fail with everything the child said unless it ended by itself with `status`."""
        if self.hung or self.returncode != status:
            pytest.fail(self.describe(f"expected exit status {status}"), pytrace=False)
        return self

    def describe(self, subject: str = "child") -> str:
        how = "hung" if self.hung else f"signal {self.signal}" if self.signal else f"exit status {self.returncode}"
        return f"{subject}: {how} after {self.seconds:.1f} s\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    def lines(self) -> List[str]:
        return self.out.splitlines()


Argv = Sequence[Union[str, os.PathLike]]


def run_child(
    argv_or_code: Union[str, Argv],
    *,
    timeout: float = 60,
    env: Optional[Mapping[str, Optional[str]]] = None,
    path: Iterable[Union[str, pathlib.Path]] = (),
    args: Sequence[str] = (),
) -> Result:
    """Run a child in a session of its own and kill all of that session's processes when it ends or hangs.

    A `str` is Python code for the interpreter under test, a sequence is an argument vector. `path` is put in
    front of PYTHONPATH; a value of None in `env` removes that variable.
    """
    code = isinstance(argv_or_code, str)
    argv = [sys.executable, "-c", argv_or_code] if code else [os.fspath(part) for part in argv_or_code]
    argv += list(args)
    environment = _child_environment(env or {}, path, embeds=_is_program(argv[0]))
    start = time.monotonic()
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    streams = [_Drain(child.stdout), _Drain(child.stderr)]
    end = threading.Thread(target=_wait_unreaped, args=(child.pid,), daemon=True)
    end.start()
    end.join(timeout)
    hung = end.is_alive()
    seconds = time.monotonic() - start
    _kill_session(child.pid)  # the leader is not reaped yet, so the id cannot belong to anybody else
    end.join()
    code_or_signal = child.wait()
    out, err = [stream.text() for stream in streams]
    return Result(code_or_signal, -code_or_signal if code_or_signal < 0 else None, out, err, hung, seconds)


def _is_program(executable: str) -> bool:
    return BUILD in pathlib.Path(executable).parents


def _child_environment(
    extra: Mapping[str, Optional[str]], path: Iterable[Union[str, pathlib.Path]], *, embeds: bool
) -> Dict[str, str]:
    environment = dict(os.environ, PYTHONFAULTHANDLER="0")
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])])
    if embeds:
        # An embedding program finds its standard library by itself only where the interpreter is installed.
        environment.setdefault("PYTHONHOME", f"{sys.base_prefix}{os.pathsep}{sys.base_exec_prefix}")
    for key, value in extra.items():
        if value is None:
            environment.pop(key, None)
        else:
            environment[key] = value
    if not environment["PYTHONPATH"]:
        del environment["PYTHONPATH"]  # empty means the current directory
    return environment


def _wait_unreaped(pid: int) -> None:
    """Wait for the end of a child and leave it a zombie: its id stays ours until its whole session was killed."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return
    import select  # macOS before 3.13 has no os.waitid; kqueue tells the end of a process without reaping it

    queue = select.kqueue()
    event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
    queue.control([event], 1, None)


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # macOS says EPERM for a group of zombies


class _Drain:
    """Reads a pipe to its end, keeping the first OUTPUT_LIMIT bytes: a child in a print loop must not fill memory."""

    def __init__(self, pipe) -> None:
        self._pipe = pipe
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._pipe:
            for chunk in iter(lambda: self._pipe.read1(65536), b""):
                self._kept += chunk[: OUTPUT_LIMIT - len(self._kept)]

    def text(self) -> str:
        self._thread.join(10)
        return bytes(self._kept).decode("utf-8", "backslashreplace")
