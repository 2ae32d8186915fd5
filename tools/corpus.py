"""Run `pep788 check` over many real files, one by one: nothing may raise, and the time for 1,000 lines is reported.

    make corpus PATHS=/usr/include
    make corpus PATHS="SDIST... FOLDER..." ARGS="--files 10000"

Sdists that are labelled in field.json are compared with their labels, too (field.py).  Without PATHS `make corpus`
runs examples/migrate/packages.py.

Every file is parsed, generated ones and those without a word of interest included, which takes longer than a check
does; seconds are processor time.  Ends with "N passed, N failed": a file that raises an exception, or takes longer than
--slow seconds, has failed, and so has an sdist in which something else is found than what is labelled.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import field
from pep788.check import engine, sources
from pep788.check.sources import Item

KINDS = {".c": "C", ".m": "C", ".h": "headers", ".pyx": "Cython", ".pxd": "Cython", ".pxi": "Cython", ".py": "Cython"}


@dataclasses.dataclass
class Sums:
    """What one kind of file came to."""

    files: int = 0
    lines: int = 0
    seconds: float = 0.0
    findings: int = 0
    lost: int = 0
    slowest: float = 0.0
    slowest_path: str = ""


def files(options: argparse.Namespace) -> Iterator[Item]:
    count = 0
    for found in sources.collect(options.paths):
        if isinstance(found, Item) and found.suffix not in sources.BINARY_SUFFIXES:
            count += 1
            yield found
        if options.files and count >= options.files:
            return


def kind(item: Item) -> str:
    if item.suffix in sources.SWIG_SUFFIXES:
        return "SWIG"
    return KINDS.get(item.suffix, "C++")


def check(item: Item, sums: Sums) -> float:
    start = time.process_time()
    report = engine.check(engine.Options(paths=(), every_file=True), lambda: [item])
    seconds = time.process_time() - start
    sums.files += 1
    sums.lines += report.lines
    sums.seconds += seconds
    sums.findings += len(report.findings)
    sums.lost += len(report.lossy)
    if seconds > sums.slowest:
        sums.slowest, sums.slowest_path = seconds, item.path
    return seconds


def show(totals: dict[str, Sums]) -> None:
    print(
        f"{'kind':8} {'files':>7} {'lines':>9} {'ms/1,000 lines':>14} {'slowest, s':>10} {'findings':>9} {'not all':>8}"
    )
    for name, sums in sorted(totals.items()):
        speed = 1e6 * sums.seconds / sums.lines if sums.lines else 0.0
        counts = f"{sums.findings:9} {sums.lost:8}"
        print(f"{name:8} {sums.files:7} {sums.lines:9} {speed:14.1f} {sums.slowest:10.2f} {counts}")
    print("slowest:", ", ".join(sums.slowest_path for sums in totals.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, sdists, wheels")
    parser.add_argument("--files", type=int, default=0, metavar="N", help="stop after this many")
    parser.add_argument("--slow", type=float, default=60, metavar="S", help="fail files that take longer (default: 60)")
    options = parser.parse_args()
    totals: dict[str, Sums] = {}
    failed = 0
    for item in files(options):
        try:
            slow = check(item, totals.setdefault(kind(item), Sums())) > options.slow
        except Exception:
            print(f"--- {item.path}\n{traceback.format_exc()}", flush=True)
            failed += 1
        else:
            failed += slow
            if slow:
                print(f"--- {item.path}: slow", flush=True)
    show(totals)
    passed = sum(sums.files for sums in totals.values()) - failed
    labels = field.load_labels()
    labelled = [path for path in map(Path, options.paths) if path.is_file() and field.package_of(path) in labels]
    if labelled:
        print()
        wrong = field.show(labelled)
        passed, failed = passed + len(labelled) - wrong, failed + wrong
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
