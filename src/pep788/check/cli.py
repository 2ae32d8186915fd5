"""The arguments of `pep788 check`, and its exit status: 0 clean, 1 findings, 2 wrong usage or an internal error."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import traceback
from typing import List, Optional, Sequence

CLEAN, FINDINGS, ERROR = 0, 1, 2
NEEDED = (
    "tree_sitter",
    "tree_sitter_c",
    "tree_sitter_cpp",
    "Cython.Compiler",
    "elftools",
    "pefile",
    "macholib",
    "rich",
)
EPILOG = (
    "A PATH is a C, C++, Cython or SWIG file, a shared library, a folder, an sdist, a wheel, or the name of an "
    "installed "
    "package. Exit status: 0 nothing found, 1 findings, 2 wrong usage or an internal error."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pep788 check",
        description="Find code that calls into a Python that may be finalizing, and misuse of PEP 788.",
        epilog=EPILOG,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--format", default="text", choices=["text", "json"], help="default: text")
    parser.add_argument(
        "--select", type=_rules, metavar="RULES", help="only these: ids or their beginnings, with commas"
    )
    parser.add_argument("--ignore", type=_rules, metavar="RULES", help="not these")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files; may be repeated"
    )
    parser.add_argument("--notes", action="store_true", help="show notes, too: what may matter or not")
    parser.add_argument("--statistics", action="store_true", help="count findings by rule, without showing them")
    parser.add_argument("--show-skipped", action="store_true", help="name every file that was skipped, and why")
    parser.add_argument("--rules", action="store_true", help="list the rules and exit")
    return parser


def _rules(text: str) -> List[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not re.fullmatch(r"P\d{0,3}", name)]
    if wrong or not names:
        raise argparse.ArgumentTypeError(
            f"{wrong[0] if wrong else text!r} is no rule; `pep788 check --rules` lists them"
        )
    return names


def main(argv: Sequence[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(list(argv))
    if not options.paths and not options.rules:
        parser.error("name a file, folder, sdist, wheel or installed package; . is this folder")
    missing = missing_module()
    if missing is not None:
        return _fail(missing)
    try:
        return _run(options)
    except Exception:
        traceback.print_exc()
        return _fail("internal error; please report it with the lines above and the file it happened on")


def missing_module() -> Optional[str]:
    """What to do, if a module of the extra is not there or does not load on this interpreter."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return _how_to_get(name, error)
    from . import ctree

    for language, name in (("c", "tree_sitter_c"), ("cpp", "tree_sitter_cpp")):
        try:
            ctree.parser(language)
        except ValueError as error:  # a grammar of a newer format than this tree-sitter reads
            return _how_to_get(name, error)
    return None


def _how_to_get(name: str, error: Exception) -> str:
    version = "{}.{}".format(*sys.version_info)
    return (
        f"check needs {name.split('.')[0]} ({error}): pip install 'pep788[check]'; where that fails for Python "
        f"{version}, run it with another Python: the code that is checked need not run on it"
    )


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from . import engine, registry, sources
    from .output import machine, text

    if options.rules:
        for rule in registry.all_rules():
            print(f"{rule.id} {rule.name:20} {rule.severity.value:8} {rule.summary}")
        return CLEAN
    try:
        report = engine.check(
            engine.Options(
                paths=tuple(options.paths),
                select=tuple(options.select or ("P",)),
                ignore=tuple(options.ignore or ()),
                exclude=tuple(options.exclude),
                notes=options.notes,
            )
        )
    except sources.SourceError as error:
        return _fail(str(error))
    if options.format == "json":
        print(machine.write(report))
    else:
        text.write(report, Console(highlight=False), options.statistics, options.show_skipped)
    return FINDINGS if report.findings else CLEAN


def _fail(message: str) -> int:
    print(f"pep788: {message}", file=sys.stderr)
    return ERROR
