"""The arguments of `pep788 migrate`, and its exit status.

0: nothing is left to decide; 1: a site needs a decision, or failed; 2: wrong usage, or nothing could be written.
"""

from __future__ import annotations

import argparse
import errno
import os
import pathlib
import re
import stat
import sys
import traceback
from typing import List, Optional, Sequence, Tuple

from .. import vendor
from ..check import cli as check_cli
from ..check import sources

DONE, OPEN, ERROR = 0, 1, 2
SUFFIXES = sources.C_SUFFIXES + sources.SWIG_SUFFIXES + sources.CYTHON_SUFFIXES
INCLUDE = pathlib.Path(__file__).resolve().parent.parent / "include"
EPILOG = (
    "A PATH is a C, C++, SWIG or Cython file, or a folder. The diff goes to stdout, the report to stderr. Exit "
    "status: 0 nothing is left to decide, 1 a site needs a decision or failed, 2 wrong usage, or nothing "
    "could be written."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pep788 migrate",
        description="Rewrite PyGILState_Ensure and PyGILState_Release to PEP 788, where all of a pair can be seen.",
        epilog=EPILOG,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--apply", action="store_true", help="write the files; without it a diff is printed")
    parser.add_argument("--allow-dirty", action="store_true", help="write where git could not bring the files back")
    parser.add_argument(
        "--failure-value",
        action="append",
        default=[],
        metavar="NAME=EXPR",
        help="what this callback returns where Python is finalizing; may be repeated",
    )
    parser.add_argument(
        "--decisions", metavar="FILE", help="a TOML file of decisions (default: pep788-migrate.toml, if it is here)"
    )
    parser.add_argument("--vendor", metavar="DIR", help="copy pep788.h to this folder and include it from there")
    parser.add_argument(
        "--min-python",
        type=_version,
        default=(3, 9),
        metavar="X.Y",
        help="the oldest Python that is supported (default: 3.9); from 3.15 on no header is needed",
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="leave out files")
    parser.add_argument("--format", default="text", choices=["text", "json"], help="default: text")
    return parser


def _version(text: str) -> Tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.\d+)?", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 3.9")
    version = int(found.group(1)), int(found.group(2))
    if version < (3, 9):
        raise argparse.ArgumentTypeError(f"pep788.h is for CPython 3.9 and later, not for {text}")
    return version


def main(argv: Sequence[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(list(argv))
    missing = check_cli.missing_module()
    if missing is not None:
        return _fail(missing.replace("check needs", "migrate needs", 1))
    for path in options.paths:
        reason = _refused(path)
        if reason:
            parser.error(reason)
    try:
        return _run(options)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.errno == errno.ENOSPC:
            raise  # the output's, for `pep788.cli` to tell
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except Exception:
        traceback.print_exc()
        return _fail("internal error; please report it with the lines above and the file it happened on")


def _refused(path: str) -> str:
    """What is wrong with an argument, "" if nothing is."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return f"{path} is {'a link to nothing' if os.path.islink(path) else 'no file or folder'}"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        return f"{path} is no file or folder"
    if stat.S_ISREG(mode) and sources.suffix_of(path) not in SUFFIXES:
        unpack = "; an archive is to be unpacked first" if path.lower().endswith(sources.ARCHIVES) else ""
        return f"{path} is no kind of file that can be migrated ({', '.join(SUFFIXES)}){unpack}"
    return ""


def _run(options: argparse.Namespace) -> int:
    from . import decisions, engine, output, writing
    from .model import Outcome

    try:
        known = decisions.load(_decisions_file(options.decisions), options.failure_value)
        engine_options = engine.Options(
            tuple(options.paths), tuple(options.exclude), options.vendor, options.min_python
        )
        report = engine.migrate(engine_options, known)
        if options.apply and report.after:
            if not options.allow_dirty:
                writing.refuse_dirty(list(report.after))
            needed = options.vendor and (report.bindings or not engine_options.native)
            copied = _vendored(options.vendor, report.bindings) if needed else []
            writing.write(report)
            report.notes += [f"wrote {path}" for path in copied]
        elif options.vendor and report.after and (report.bindings or not engine_options.native):
            names = " and ".join([vendor.HEADER_NAME, *(f"that for {library}" for library in report.bindings)])
            report.notes.append(f"--apply copies {names} to {options.vendor}, too")
    except (decisions.DecisionError, sources.SourceError, writing.NotWritten, vendor.VendorError) as error:
        return _fail(str(error))
    written = bool(options.apply and report.after)
    if options.format == "json":
        print(output.as_json(report, written))
    else:
        if not written:
            sys.stdout.buffer.write(output.diff(report))
            sys.stdout.flush()
        print(output.text(report, written), file=sys.stderr)
    unread = check_cli.not_checked(report.skipped, options.paths)
    for skip in unread:
        print(f"pep788: {skip.path}: {skip.reason}", file=sys.stderr)
    if unread:
        return ERROR
    left = report.count(Outcome.ASKED) + report.count(Outcome.FAILED)
    return OPEN if left else DONE


def _decisions_file(named: Optional[str]) -> Optional[pathlib.Path]:
    from .decisions import FILE_NAME

    if named is not None:
        return pathlib.Path(named)
    default = pathlib.Path(FILE_NAME)
    return default if default.is_file() else None


def _vendored(folder: str, bindings: List[str]) -> List[str]:
    files = vendor.plan(INCLUDE / vendor.HEADER_NAME, pathlib.Path(folder), bindings)
    return [str(file.path) for file in vendor.copy(files, force=False)]


def _fail(message: str) -> int:
    print(f"pep788: {message}", file=sys.stderr)
    return ERROR
