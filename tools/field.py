"""Compare what `pep788 check` finds in real packages with what a reader found there (tools/field.json).

    python tools/field.py SDIST...

The sdists are those of PyPI, by the names and versions in field.json; `pip download --no-deps --no-binary NAME NAME`
gets them.  Labelled are all places where the package's hand-written code is unsafe by the rules, found by reading
every use of the API that attaches, detaches, asks for finalization or waits for a thread; `why` says why the checker
misses one, `not` holds what looks like a site and is none.  Prints precision (what was found and is one, of all that
was found) and recall (what was found, of all there is), of sites and of uses of macros.  Ends with "N passed, N
failed", a package each: it has failed if something is found that is not labelled, if something is missed for no reason
given, or if something is found that was given up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pep788.check import engine
from pep788.check.model import Finding

LABELS = Path(__file__).with_name("field.json")
Row = dict[str, Any]


@dataclasses.dataclass
class Score:
    """Of one package, or of all."""

    labelled: int = 0
    found: int = 0
    right: int = 0
    uses: int = 0
    uses_found: int = 0
    surprises: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Score) -> None:
        self.labelled += other.labelled
        self.found += other.found
        self.right += other.right
        self.uses += other.uses
        self.uses_found += other.uses_found
        self.surprises += other.surprises

    def row(self, name: str) -> str:
        uses = f"{self.uses_found}/{self.uses}" if self.uses else "-"
        precision, recall = _percent(self.right, self.found), _percent(self.right, self.labelled)
        return f"{name:24} {self.labelled:8} {self.found:6} {precision:>10} {recall:>7} {uses:>8}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def found_in(sdist: Path) -> dict[tuple[str, int, str], Finding]:
    report = engine.check(engine.Options(paths=(str(sdist),)))
    top = f"{sdist.as_posix()}/"
    return {(f.span.path[len(top) :].partition("/")[2], f.span.line, f.rule): f for f in report.findings}


def compare(labels: Row, found: dict[tuple[str, int, str], Finding]) -> Score:
    sites = {(row["path"], row["line"], row["rule"]): row for row in labels["sites"]}
    score = Score(len(sites), len(found), len(sites.keys() & found.keys()))
    for place, finding in found.items():
        row = sites.get(place)
        if row is None:
            score.surprises.append(f"not labelled: {place}: {finding.message}")
            continue
        if row.get("pattern") not in (None, finding.data.get("pattern")):
            score.surprises.append(f"{place}: its pattern is {finding.data['pattern']}, labelled {row['pattern']}")
        if "uses" in row:
            score.uses += row["uses"]
            score.uses_found += len(finding.data["uses"])
        if ("uses" in row and len(finding.data["uses"]) != row["uses"]) != ("why" in row):
            score.surprises.append(f"{place}: {len(finding.data.get('uses', ()))} of {row.get('uses')} uses")
    for place in sites.keys() - found.keys():
        if "why" not in sites[place]:
            score.surprises.append(f"missed: {place}")
    return score


def package_of(sdist: Path) -> str:
    """"plyvel-1.5.1" if that is what the file holds, "" if it is no sdist."""
    try:
        with tarfile.open(sdist) as archive:
            first = archive.next()
    except (OSError, tarfile.TarError):
        return ""
    return first.name.partition("/")[0] if first is not None else ""


def load_labels() -> dict[str, Row]:
    labels: dict[str, Row] = json.loads(LABELS.read_text(encoding="utf-8"))
    return labels


def show(sdists: Sequence[Path]) -> int:
    """Print the table; returns how many packages differ from their labels."""
    labels = load_labels()
    failed, total = 0, Score()
    print(f"{'package':24} {'labelled':>8} {'found':>6} {'precision':>10} {'recall':>7} {'uses':>8}")
    for sdist in sdists:
        package = package_of(sdist)
        if package not in labels:
            print(f"{package or sdist.name:24} is not in {LABELS.name}", file=sys.stderr)
            failed += 1
            continue
        score = compare(labels[package], found_in(sdist))
        print(score.row(package))
        for surprise in score.surprises:
            print(f"  {surprise}")
        failed += bool(score.surprises)
        total.add(score)
    print(total.row("all"))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdists", nargs="+", type=Path, metavar="SDIST")
    options = parser.parse_args()
    failed = show(options.sdists)
    print(f"{len(options.sdists) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
