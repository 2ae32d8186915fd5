"""`pep788 shield`: run a program with the shield up, or make an environment ready for `PEP788_SHIELD=1`."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import shutil
import site
import sys
import sysconfig
from typing import Dict, List, Mapping, NoReturn, Sequence, Tuple

from pep788._processes import why_not_run
from pep788.shield import DRAIN_SECONDS, ShieldError
from pep788.shield._patch import check_platform

OK, FAILED, USAGE = 0, 1, 2
PTH_NAME = "pep788-shield.pth"
PTH_LINE = (
    'import os; os.environ.get("PEP788_SHIELD") == "1" and '
    '__import__("pep788.shield", fromlist=["enable_from_environment"]).enable_from_environment()\n'
)
SITE = pathlib.Path(__file__).resolve().parent / "_site"

USAGE_TEXT = """pep788 shield [--limit SECONDS] [--report] -- COMMAND [ARGUMENT ...]
       pep788 shield [--limit SECONDS] [--report] -m MODULE [ARGUMENT ...]
       pep788 shield --install | --uninstall"""


def main(argv: Sequence[str]) -> int:
    """Run the subcommand; on success of the first two forms this process becomes the program."""
    own, command = _split(argv)
    parser = _parser()
    options = parser.parse_args(own)
    if options.install or options.uninstall:
        if command or options.report or options.limit is not None:
            parser.error("--install and --uninstall stand alone")
        return _install() if options.install else _uninstall()
    if not command:
        parser.error("a command is missing: pep788 shield -- python app.py")
    if command == [sys.executable, "-m"]:
        parser.error("-m needs the name of a module")
    return _run(command, options)


def _split(argv: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Our own options, and the command: what follows `--`, starts at `-m`, or at the first word that is no option."""
    at = 0
    while at < len(argv):
        word = argv[at]
        if word == "--":
            return list(argv[:at]), list(argv[at + 1 :])
        if word == "-m":
            return list(argv[:at]), [sys.executable, *argv[at:]]
        if not word.startswith("-"):
            return list(argv[:at]), list(argv[at:])
        at += 2 if word == "--limit" else 1
    return list(argv), []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pep788 shield",
        usage=USAGE_TEXT,
        description="Run a program so that native threads of unmodified modules do not crash it when it ends.",
        epilog="Exit status: that of the program; 1 if it could not be started, 2 wrong usage.",
    )
    parser.add_argument(
        "--limit",
        type=_seconds,
        metavar="SECONDS",
        help=f"how long the end waits for callbacks in flight (default: {DRAIN_SECONDS:g})",
    )
    parser.add_argument("--report", action="store_true", help="at the end, say on stderr what was protected")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--install",
        action="store_true",
        help="from now on PEP788_SHIELD=1 does the same for every program of this environment (a .pth file)",
    )
    ways.add_argument("--uninstall", action="store_true", help="undo --install")
    return parser


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number


_seconds.__name__ = "number of seconds"  # argparse: "invalid number of seconds value: 'x'"


def _run(command: List[str], options: argparse.Namespace) -> int:
    try:
        check_platform()
    except ShieldError as error:
        return _fail(str(error))
    if command[0].endswith(".py") and not os.access(command[0], os.X_OK):
        command = [sys.executable, *command]
    program = shutil.which(command[0])
    if program is None:
        return _fail(why_not_run(command[0]))
    try:
        _become(program, command, _environment(os.environ, options))
    except OSError as error:
        return _fail(why_not_run(program, error))


def _become(program: str, command: List[str], environment: Dict[str, str]) -> NoReturn:
    os.execve(program, command, environment)


def _environment(inherited: Mapping[str, str], options: argparse.Namespace) -> Dict[str, str]:
    environment = dict(inherited, PEP788_SHIELD="1")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), inherited.get("PYTHONPATH")]))
    if options.limit is not None:
        environment["PEP788_SHIELD_LIMIT"] = repr(options.limit)
    if options.report:
        environment["PEP788_SHIELD_REPORT"] = "1"
    return environment


def _pth() -> pathlib.Path:
    return pathlib.Path(sysconfig.get_path("purelib"), PTH_NAME)


def _install() -> int:
    path = _pth()
    folders = [os.path.realpath(folder) for folder in site.getsitepackages()]
    if os.path.realpath(path.parent) not in folders:
        return _fail(f"{path.parent} is not a folder that this Python reads .pth files from; use a virtual environment")
    try:
        check_platform()
        path.write_text(PTH_LINE, encoding="ascii")
    except ShieldError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{path}: {error.strerror}; use a virtual environment")
    print(f"wrote {path}\nset PEP788_SHIELD=1 to run a program of this environment with the shield up")
    return OK


def _uninstall() -> int:
    path = _pth()
    try:
        path.unlink()
    except FileNotFoundError:
        print(f"{path} is not there")
        return OK
    except OSError as error:
        return _fail(f"{path}: {error.strerror}")
    print(f"removed {path}")
    return OK


def _fail(message: str) -> int:
    print(f"pep788: {message}", file=sys.stderr)
    return FAILED
