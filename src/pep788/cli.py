"""The ``pep788`` command: ``info``, ``config``, ``vendor``, and the tools that are packages of their own.

Exit status: 0 done, 1 not done (the message says why), 2 wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import io
import json
import os
import pathlib
import platform
import shlex
import sys
import sysconfig
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import pep788
from pep788 import vendor

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

TOOLS = {
    "demo": "show what happens to native threads at interpreter exit, old API and new",
    "stress": "run a program to its end many times: how often it fails, and why",
    "check": "find code that calls into a Python that may be finalizing",
    "migrate": "rewrite PyGILState pairs to PEP 788, where all of a pair can be seen",
    "shield": "run a program whose compiled modules cannot be rebuilt",
}
"""Packages with a ``main(argv)``; all their options are their own, --help included."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What ``pep788 info`` reports."""

    interpreter: str
    executable: str
    package: str
    header: str
    include: str
    extensions_use: str
    modules: Dict[str, int]
    guards: int

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    def as_text(self) -> str:
        rows = [
            ("interpreter", f"{self.interpreter} ({self.executable})"),
            ("pep788", f"{self.package}, header {self.header}"),
            ("include path", self.include),
            ("your extensions use", self.extensions_use),
            ("open guards", str(self.guards)),
        ]
        lines = [f"{name + ':':21}{value}" for name, value in rows]
        lines.append("modules with guards of this header in this process:")
        lines += [f"  {name}: {_count(guards)} open" for name, guards in self.modules.items()]
        return "\n".join(lines)


def _count(guards: int) -> str:
    return f"{guards} guard" if guards == 1 else f"{guards} guards"


def _interpreter_name() -> str:
    traits = []
    if hasattr(sys, "gettotalrefcount"):
        traits.append("debug build")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        traits.append("free-threaded build")
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return ", ".join([name, *traits])


def _implementation_for_extensions() -> str:
    if sys.version_info >= (3, 15):
        return "the native API (the backport where PEP788_ALWAYS is defined)"
    return "the backport"


def collect_info() -> Info:
    """Look at this process as it is."""
    from pep788 import _core

    modules: Dict[str, int] = {}
    for name, guards in _core.modules():
        modules[name] = modules.get(name, 0) + guards
    return Info(
        interpreter=_interpreter_name(),
        executable=sys.executable or "embedded",
        package=pep788.__version__,
        header=_core.HEADER_VERSION,
        include=pep788.get_include(),
        extensions_use=_implementation_for_extensions(),
        modules=modules,
        guards=pep788.guard_count(),
    )


def _info(options: argparse.Namespace) -> int:
    for name in options.modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a script without `if __name__ == "__main__"` exits when imported
            missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
            hint = "; install it here, or set PYTHONPATH to its folder" if missing else ""
            return _fail(f"{name} cannot be imported: {type(error).__name__}: {error}{hint}")
    info = collect_info()
    print(info.as_json() if options.json else info.as_text())
    return OK


def _folder(text: str) -> str:
    if not text.strip():  # an unset variable in a script; pathlib would take it for the current folder
        raise argparse.ArgumentTypeError("it is empty; name a folder, or . for this one")
    return text


def _config(options: argparse.Namespace) -> int:
    if options.wanted is None:
        print("pep788: say what to print: " + ", ".join(option for option, _, _ in CONFIG), file=sys.stderr)
        return USAGE
    values = {option: value for option, value, _ in CONFIG}
    print(" ".join(values[option]() for option in options.wanted))
    return OK


def _compiler_flags() -> str:
    return " ".join([shlex.quote(f"-I{pep788.get_include()}"), *_thread_flags()])


def _thread_flags() -> List[str]:
    return [] if sys.platform == "win32" else ["-pthread"]


CONFIG: List[Tuple[str, Callable[[], str], str]] = [
    ("--cflags", _compiler_flags, "flags for the compiler"),
    ("--libs", lambda: " ".join(_thread_flags()), "flags for the linker"),
    ("--includedir", pep788.get_include, "the folder of pep788.h"),
    ("--cmakedir", pep788.get_cmake_dir, "the folder of pep788Config.cmake"),
    ("--pkgconfigdir", pep788.get_pkgconfig_dir, "the folder of pep788.pc"),
]


def _vendor(options: argparse.Namespace) -> int:
    source = pathlib.Path(pep788.get_include(), vendor.HEADER_NAME)
    folder = pathlib.Path(options.folder)
    try:
        choices = [choice for choice in vendor.CHOICES if getattr(options, choice)]
        files = vendor.plan(source, folder, choices)
        if options.check:
            return _report_check(files)
        written = vendor.copy(files, options.force)
    except vendor.VendorError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or folder}: {error.strerror or error}; name a folder that can be written")
    for file in files:
        verb = "wrote" if file in written else "up to date:"
        print(f"{verb} {file.path}")
    if written:
        print(_next_steps(folder))
    return OK


def _report_check(files: List[vendor.File]) -> int:
    for file in files:
        print(f"{file.path}: {file.state.value}")
    return OK if all(file.state is vendor.State.CURRENT for file in files) else FAILED


def _next_steps(folder: pathlib.Path) -> str:
    return (
        "next:\n"
        f"  1. commit these files and add {folder} to your include path\n"
        f'  2. #include "{vendor.HEADER_NAME}" and call Pep788_Init() in your module\'s '
        "init function\n"
        f"  3. to update: upgrade pep788 and run `pep788 vendor {folder}` again"
    )


def _tool(name: str, argv: Sequence[str]) -> int:
    try:
        tool: Any = importlib.import_module(f"pep788.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"pep788.{name}":
            raise
        return _fail(f"{name} is not part of this installation; install pep788 as a whole")
    status = tool.main(list(argv))
    return OK if status is None else int(status)


def _fail(message: str) -> int:
    print(f"pep788: {message}", file=sys.stderr)
    return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the README's help text is printed by it and compared."""
    parser = argparse.ArgumentParser(
        prog="pep788",
        description="PEP 788 for CPython 3.9-3.15: guards, views and safe attach.",
        epilog="Exit status: 0 done, 1 not done, 2 wrong usage, 130 after Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"pep788 {pep788.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    info = commands.add_parser(
        "info",
        help="show interpreter, header, include path, and who holds guards",
        description="Show interpreter, header, include path, and the modules that registered.",
    )
    info.add_argument("modules", nargs="*", metavar="MODULE", help="import this module first")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_info)
    config = commands.add_parser(
        "config",
        help="print what a build system needs to find the header",
        description="Print what a build system needs to find the header; several options, one line.",
    )
    for option, _, text in CONFIG:
        config.add_argument(option, action="append_const", dest="wanted", const=option, help=text)
    config.set_defaults(run=_config)
    copy = commands.add_parser(
        "vendor",
        help="copy pep788.h and its license into a folder of yours",
        description="Copy pep788.h and its license (0BSD) into a folder, or update them there.",
    )
    copy.add_argument("folder", type=_folder, metavar="DIR", help="created if it does not exist")
    copy.add_argument("--cpp", action="store_true", help="pep788.hpp, for C++, too")
    copy.add_argument("--pybind11", action="store_true", help="pep788/pybind11.hpp and what it includes, too")
    copy.add_argument("--nanobind", action="store_true", help="pep788/nanobind.hpp and what it includes, too")
    how = copy.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="overwrite files that were changed there")
    how.add_argument("--check", action="store_true", help="write nothing; 1 unless up to date")
    copy.set_defaults(run=_vendor)
    for name, text in TOOLS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; usage errors end in SystemExit(2) by argparse."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # LANG=C: a report is not lost for one character
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:  # pythonw, or a closed descriptor
                sys.stdout.flush()  # here, where a full disk can still be told
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `pep788 info | head -1`: whoever reads has seen enough
        _drop_output()
        return FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        return _fail(f"{error.filename or 'output'}: {error.strerror}")


def _drop_output() -> None:
    """What is still in the buffer would fail again at exit, with a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: List[str]) -> int:
    if arguments and arguments[0] in TOOLS:
        return _tool(arguments[0], arguments[1:])
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return USAGE
    return int(options.run(options))
