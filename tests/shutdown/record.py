"""What the shutdown tests saw, interpreter by interpreter.

Each test appends one line to a file (PEP788_RECORD, default build/shutdown.jsonl), whatever the interpreter;
`python tests/shutdown/record.py [FILE]` prints the last result of each as a RED/GREEN table in Markdown.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Dict, List, Tuple

REPO = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = ("old", "new", "recompiled")
BAD = ("crash", "hang", "lost", "error")
Row = Dict[str, object]


def record_path() -> pathlib.Path:
    return pathlib.Path(os.environ.get("PEP788_RECORD") or REPO / "build" / "shutdown.jsonl")


def append(row: Row) -> None:
    path = record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")  # one write of one line: safe beside another interpreter's tests


def read(path: pathlib.Path) -> List[Row]:
    """The last row of each scenario, column and interpreter."""
    last: Dict[Tuple[object, ...], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        last[row["python"], row["scenario"], row["column"]] = row
    return list(last.values())


def colour(row: Row) -> str:
    """RED: a process or a thread was lost. PARKED: late callers sleep, all that the old API's signature allows."""
    outcomes = row["outcomes"]
    assert isinstance(outcomes, dict)
    if any(name.split(" ")[0] in BAD for name in outcomes):
        return "RED"
    return "PARKED" if "parked" in outcomes else "GREEN"


def cell(row: Row) -> str:
    outcomes = row["outcomes"]
    assert isinstance(outcomes, dict)
    return f"{colour(row)} " + ", ".join(f"{count} {name}" for name, count in outcomes.items())


def table(rows: List[Row]) -> str:
    cells = {(row["python"], row["scenario"], row["column"]): cell(row) for row in rows}
    lines = ["| scenario | Python | old API | pep788 | recompiled |", "|---|---|---|---|---|"]
    for scenario, python in sorted({(str(row["scenario"]), str(row["python"])) for row in rows}, key=_by_version):
        found = [cells.get((python, scenario, column), "") for column in COLUMNS]
        lines.append(f"| {scenario} | {python} | {' | '.join(found)} |")
    return "\n".join(lines)


def _by_version(key: Tuple[str, str]) -> Tuple[str, List[int], str]:
    scenario, python = key
    return scenario, [int(part) for part in python.split()[0].split(".")], python


def main(argv: List[str]) -> int:
    path = pathlib.Path(argv[0]) if argv else record_path()
    if not path.exists():
        print(f"record.py: {path} is not there: run pytest tests/shutdown first", file=sys.stderr)
        return 2
    print(table(read(path)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
