"""Run `pep788 migrate` over many real files, one by one, as they are and with pairs planted in their functions.

    python robust.py --files 12000 /usr/include SDIST...
    python robust.py --only-c /usr/include SDIST...

Few real files have a pair, so up to --plant functions of each get one: an Ensure in front of the first statement, and a
Release behind it or at the end, in a block of its own or not.  All that an author could be asked is answered, so that
as much as possible is rewritten.  For each file, planted or not:

- nothing is raised;
- only the bytes of reported edits change, and what they put there is ASCII;
- the parser is not lost more often than before, and the file still decodes as it did;
- a second run changes nothing.

Seconds are processor time of the migration alone.  Ends with "N passed, N failed", a file each.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pep788.check import ctree, project, sources
from pep788.check.sources import Item
from pep788.migrate import edits, engine
from pep788.migrate.decisions import Decision, Decisions
from pep788.migrate.model import Outcome, Report, shown_name

SUFFIXES = sources.C_SUFFIXES + sources.SWIG_SUFFIXES + sources.CYTHON_SUFFIXES
OPEN, CLOSE = "PyGILState_STATE planted = PyGILState_Ensure();", "PyGILState_Release(planted);"


class Broken(Exception):
    """What must not happen."""


@dataclasses.dataclass
class Sums:
    """What all files came to."""

    files: int = 0
    lines: int = 0
    planted: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)


def plant(item: Item, most: int, seed: int) -> tuple[bytes, Decisions, int]:
    """The file with pairs in up to `most` functions, and answers for them."""
    chance = random.Random(f"{seed}:{item.path}")
    known = Decisions(view="view")
    try:
        functions = [f for f in project.parse_c(item, ()).functions if not f.has_error and f.body.named_child_count]
    except ctree.TooDeep:
        return item.data, known, 0
    chosen = chance.sample(functions, min(most, len(functions)))
    found: list[edits.Edit] = []
    for function in chosen:
        known.callbacks[shown_name(function)] = Decision(value="0" if function.returns_value else None, accept=True)
        statement = chance.choice(function.body.named_children)
        start, end = int(statement.start_byte), chance.choice([statement.end_byte, function.body.end_byte - 1])
        block = chance.choice([("", ""), ("{ ", " }"), ("\n", "\n")])
        found.append(edits.Edit(start, start, block[0] + OPEN + chance.choice([" ", "\n", "  // planted\n"])))
        found.append(edits.Edit(end, end, f" {CLOSE}{block[1]}"))
    return edits.apply(item.data, found), known, len(chosen)


def migrate(path: Path, known: Decisions) -> Report:
    return engine.migrate(engine.Options(paths=(str(path),)), dataclasses.replace(known, used=set()))


def lost(item: Item) -> int:
    try:
        root = project.parse_c(item, ()).root
    except ctree.TooDeep:
        return 0
    return sum(node.type == "ERROR" or node.is_missing for node in ctree.walk(root))


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def check(path: Path, data: bytes, known: Decisions, sums: Sums) -> None:
    path.write_bytes(data)
    start = time.process_time()
    report = migrate(path, known)
    sums.seconds += time.process_time() - start
    sums.lines += data.count(b"\n")
    sums.outcomes.update(site.outcome.value for site in report.sites)
    failed = [site.reason for site in report.sites if site.outcome is Outcome.FAILED]
    if failed:
        raise Broken(f"a site failed: {failed[0]}")
    if path.read_bytes() != data:
        raise Broken("something was written")
    for name, after in report.after.items():
        found = [edit for site in report.sites for edit in site.edits if site.span.path == name]
        found += report.set_up.get(name, [])
        if edits.apply(data, found) != after or not all(edit.text.isascii() for edit in found):
            raise Broken("bytes outside of the reported edits changed")
        if decodes(data) != decodes(after):
            raise Broken("another encoding")
        if lost(Item(name, after)) > lost(Item(name, data)):
            raise Broken("does not parse")
        path.write_bytes(after)
        again = migrate(path, known)
        if again.after or any(site.outcome is Outcome.MIGRATED for site in again.sites):
            raise Broken("a second run changes it")


def files(options: argparse.Namespace) -> Iterator[Item]:
    count, suffixes = 0, sources.C_SUFFIXES if options.only_c else SUFFIXES
    for found in sources.collect(options.paths):
        if isinstance(found, Item) and found.suffix in suffixes:
            count += 1
            yield found
        if options.files and count >= options.files:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, sdists")
    parser.add_argument("--files", type=int, default=0, metavar="N", help="stop after this many")
    parser.add_argument("--only-c", action="store_true", help="C, C++ and their headers, nothing else")
    parser.add_argument("--plant", type=int, default=3, metavar="N", help="functions of a file (default: 3)")
    parser.add_argument("--seed", type=int, default=788, help="another choice of functions and places")
    options = parser.parse_args()
    sums, failed = Sums(), 0
    with tempfile.TemporaryDirectory() as folder:
        for item in files(options):
            sums.files += 1
            path = Path(folder) / f"x{item.suffix}"
            try:
                check(path, item.data, Decisions(view="view"), sums)
                data, known, planted = plant(item, options.plant, options.seed)
                sums.planted += planted
                if planted:
                    check(path, data, known, sums)
            except Exception:
                print(f"--- {item.path}\n{traceback.format_exc()}", flush=True)
                failed += 1
            path.unlink(missing_ok=True)
    counts = ", ".join(f"{number} {name}" for name, number in sorted(sums.outcomes.items()))
    speed = 1e6 * sums.seconds / sums.lines if sums.lines else 0.0
    print(f"{sums.files} files, {sums.lines} lines in all runs, {speed:.1f} ms for 1,000 lines; {sums.planted} functions")
    print(f"sites: {counts or 'none'}")
    print(f"{sums.files - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
