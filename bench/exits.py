"""What `pep788 stress` costs: runs a minute beside a plain shell loop, and what its parts add to a clean exit.

    python bench/exits.py [--rounds N]

Prints medians over rounds in which all ways take turns, and ratios to the shell loop of the same round.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

PROGRAM = [sys.executable, "-c", "import threading, atexit; atexit.register(int)"]
RUNS = 20


def shell_loop() -> float:
    words = shlex.join(PROGRAM)
    return timed(["sh", "-c", f"i=0; while [ $i -lt {RUNS} ]; do {words}; i=$((i+1)); done"])


def stress(*options: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        output = ["-o", str(Path(folder, "report"))]
        return timed([sys.executable, "-m", "pep788", "stress", "--runs", str(RUNS), *output, *options, "--", *PROGRAM])


def timed(argv: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


WAYS: dict[str, Callable[[], float]] = {
    "shell loop": shell_loop,
    "pep788 stress --jobs 1 --no-amplify": lambda: stress("--jobs", "1", "--no-amplify"),
    "pep788 stress --jobs 1": lambda: stress("--jobs", "1"),
    "pep788 stress (a job a processor)": stress,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be above 0")
    seconds = [{name: way() for name, way in WAYS.items()} for _ in range(rounds)]
    print(f"Python {sys.version.split()[0]}, {rounds} rounds of {RUNS} runs, medians")
    print(f"{'':36} {'runs/min':>9} {'ms a run':>9} {'/ shell loop':>13}")
    for name in WAYS:
        one = statistics.median(row[name] for row in seconds) / RUNS
        ratio = statistics.median(row[name] / row["shell loop"] for row in seconds)
        print(f"{name:36} {60 / one:9.0f} {one * 1000:9.1f} {ratio:13.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
