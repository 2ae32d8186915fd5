"""Compare what `pep788 check` finds in eight real packages with what a reader found there (tools/field.json).

    python tools/field.py SDIST...

The sdists are those of PyPI, by the names and versions in field.json; `pip download --no-deps --no-binary NAME NAME`
gets them.  For every site the file, line and rule must agree, for pairs whether the function leaves in between, for
macros the number of uses.  Ends with "N passed, N failed", a package each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from pep788.check import engine
from pep788.check.model import Finding

LABELS = Path(__file__).with_name("field.json")


def site(finding: Finding, path: str) -> dict[str, Any]:
    row: dict[str, Any] = {"path": path, "line": finding.span.line, "rule": finding.rule}
    if "pattern" in finding.data:
        row["pattern"] = finding.data["pattern"]
    if "uses" in finding.data:
        row["uses"] = len(finding.data["uses"])
    return row


def found_in(sdist: Path) -> list[dict[str, Any]]:
    report = engine.check(engine.Options(paths=(str(sdist),)))
    top = f"{sdist.as_posix()}/"
    return [site(finding, finding.span.path[len(top) :].partition("/")[2]) for finding in report.findings]


def package_of(sdist: Path) -> str:
    with tarfile.open(sdist) as archive:
        first = archive.next()
    return first.name.partition("/")[0] if first is not None else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdists", nargs="+", type=Path, metavar="SDIST")
    options = parser.parse_args()
    labels: dict[str, list[dict[str, Any]]] = json.loads(LABELS.read_text(encoding="utf-8"))
    failed = 0
    print(f"{'package':24} {'labelled':>8} {'found':>6} {'missed':>7} {'not labelled':>13}")
    for sdist in options.sdists:
        package = package_of(sdist)
        if package not in labels:
            print(f"{package or sdist.name:24} is not in {LABELS.name}", file=sys.stderr)
            failed += 1
            continue
        wanted, found = labels[package], found_in(sdist)
        missed = [row for row in wanted if row not in found]
        extra = [row for row in found if row not in wanted]
        print(f"{package:24} {len(wanted):8} {len(found):6} {len(missed):7} {len(extra):13}")
        for row in missed + extra:
            print(f"  {'missed' if row in missed else 'not labelled'}: {json.dumps(row)}")
        failed += bool(missed or extra)
    print(f"{len(options.sdists) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
