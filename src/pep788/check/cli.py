"""The arguments of `pep788 check`, and its exit status: 0 clean, 1 findings, 2 wrong usage or an internal error."""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.metadata
import pathlib
import re
import sys
import traceback
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from .config import Config, ConfigError

if TYPE_CHECKING:
    from .engine import Options
    from .model import Report, Skip

CLEAN, FINDINGS, ERROR = 0, 1, 2
NOTHING = "no C, C++, Cython or SWIG source and no shared library"
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
RULE = re.compile(r"P\d{0,3}")
NO_RULE = "{!r} is no rule; `pep788 check --rules` lists them"
EPILOG = (
    "A PATH is a C, C++, Cython or SWIG file, a shared library, a folder, an sdist, a wheel, or the name of an "
    "installed package. Exit status: 0 nothing found, 1 findings, 2 wrong usage or an internal error."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pep788 check",
        description="Find code that calls into a Python that may be finalizing, and misuse of PEP 788.",
        epilog=EPILOG,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--format", default="text", choices=["text", "json", "sarif", "github"], help="default: text")
    parser.add_argument(
        "--select", type=_rules, metavar="RULES", help="only these: ids or their beginnings, or names, with commas"
    )
    parser.add_argument("--ignore", type=_rules, metavar="RULES", help="not these")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files; may be repeated"
    )
    parser.add_argument("--baseline", metavar="FILE", help="leave out the findings in this file")
    parser.add_argument("--write-baseline", metavar="FILE", help="write all findings into this file, and exit with 0")
    parser.add_argument("--isolated", action="store_true", help="do not read [tool.pep788] in pyproject.toml")
    parser.add_argument("--notes", action="store_true", help="show notes, too: what may matter or not")
    parser.add_argument(
        "--unsafe-fixes", action="store_true", help="show fixes that may change the meaning, too; SARIF has them then"
    )
    parser.add_argument("--statistics", action="store_true", help="count findings by rule, without showing them")
    parser.add_argument("--show-skipped", action="store_true", help="name every file that was skipped, and why")
    parser.add_argument("--rules", action="store_true", help="list the rules and exit")
    return parser


def _rules(text: str) -> List[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(NO_RULE.format(text))
    return names


def main(argv: Sequence[str]) -> int:
    parser = build_parser()
    options = parser.parse_args(list(argv))
    if not options.paths and not options.rules:
        parser.error("name a file, folder, sdist, wheel or installed package; . is this folder")
    missing = missing_module()
    if missing is not None:
        return _fail(missing)
    _write_anything()
    try:
        return _run(options)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.errno == errno.ENOSPC:
            raise  # the output's, for `pep788.cli` to tell
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except Exception:
        traceback.print_exc()
        return _fail("internal error; please report it with the lines above and the file it happened on")


def _write_anything() -> None:
    """Source code may hold letters that the terminal's encoding has not."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


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
    from . import baseline, config, engine, registry, sources

    if options.rules:
        for rule in registry.all_rules():
            print(f"{rule.id} {rule.name:20} {rule.severity.value:8} {rule.summary}")
        return CLEAN
    try:
        settings = config.Config() if options.isolated else config.load(config.current_folder())
        found = _engine_options(options, settings)
        report = engine.check(found)
        if options.write_baseline:
            baseline.write(pathlib.Path(options.write_baseline), report)
            print(f"wrote {options.write_baseline}: {len(report.findings)} known findings")
            return CLEAN
        known = options.baseline or (settings.baseline and str(settings.folder / settings.baseline))
        if known:
            baseline.apply(pathlib.Path(known), report)
    except (sources.SourceError, config.ConfigError, baseline.BaselineError) as error:
        return _fail(str(error))
    _write(report, options)
    if not report.files and not report.skipped:
        excluded = f", {', '.join(found.exclude)} left out" if found.exclude else ""
        print(f"pep788: nothing to check in {', '.join(options.paths)}: {NOTHING}{excluded}", file=sys.stderr)
    unread = not_checked(report.skipped, options.paths)
    for skip in unread:
        print(f"pep788: {skip.path}: {skip.reason}", file=sys.stderr)
    return ERROR if unread else FINDINGS if report.findings else CLEAN


def not_checked(skipped: Sequence[Skip], paths: Sequence[str]) -> List[Skip]:
    """What was named on the command line and could not be read or parsed: to call that clean would be wrong."""
    from . import sources

    named = {sources.shown_path(path) for path in paths}
    lossy = [skip for skip in skipped if skip.kind in ("unreadable", "unparsed") and not skip.part]
    return [skip for skip in lossy if skip.path in named]


def _engine_options(options: argparse.Namespace, settings: Config) -> Options:
    from . import engine

    where = f"{settings.folder / 'pyproject.toml'}: [tool.pep788] "
    select = _ids(options.select, "--select") or _ids(settings.select, f"{where}select")
    ignore = _ids(options.ignore, "--ignore") or _ids(settings.ignore, f"{where}ignore")
    return engine.Options(
        paths=tuple(options.paths),
        select=select or ("P",),
        ignore=ignore,
        exclude=(*settings.exclude, *options.exclude),
        notes=options.notes or settings.notes,
    )


def _ids(given: Optional[Sequence[str]], where: str) -> Tuple[str, ...]:
    """Ids, their beginnings and names of rules, as ids or their beginnings."""
    from . import registry

    rules = registry.all_rules()
    by_name = {rule.name: rule.id for rule in rules}
    found = [by_name.get(name.lower(), name.upper()) for name in given or ()]
    for name, id in zip(given or (), found):
        if not RULE.fullmatch(id) or not any(rule.id.startswith(id) for rule in rules):
            raise ConfigError(f"{where}: {NO_RULE.format(name)}")
    return tuple(found)


def _write(report: Report, options: argparse.Namespace) -> None:
    from rich.console import Console

    from . import registry
    from .output import github, machine, sarif, text

    if options.format == "json":
        print(machine.write(report))
    elif options.format == "sarif":
        print(sarif.write(report, registry.all_rules(), _version(), options.unsafe_fixes))
    elif options.format == "github":
        if report.findings or report.lossy or report.comments:
            print(github.write(report))
    else:
        view = text.View(options.statistics, options.show_skipped, options.unsafe_fixes)
        text.write(report, Console(highlight=False), view)


def _version() -> str:
    try:
        return importlib.metadata.version("pep788")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "0"


def _fail(message: str) -> int:
    print(f"pep788: {message}", file=sys.stderr)
    return ERROR
