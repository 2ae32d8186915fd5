"""Resident memory of a process in which many native threads, one after the other, keep a thread state and exit (F6).

    python3 tools/interpreters.py run 3.14 bench/memory.py           100,000 threads, three calls each
    python3 tools/interpreters.py run 3.14 bench/memory.py 10000     as many as that

The interpreter that runs this is the one that is measured, on 3.15 with PEP788_ALWAYS: native keeps none.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import modules

STEPS = 10


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or not all(word.isdecimal() and int(word) >= STEPS for word in arguments):
        print(f"usage: memory.py [THREADS]   (a number of at least {STEPS}; default 100000)", file=sys.stderr)
        return 2
    count = int(arguments[0]) if arguments else 100_000
    include = Path(__file__).resolve().parent.parent / "src" / "pep788" / "include"
    with tempfile.TemporaryDirectory() as scratch:
        builder = modules.Builder(Path(scratch), include)
        keep = modules.load("bench_close", modules.close(builder, always=sys.version_info >= (3, 15))).keep
        print(f"Python {sys.version.split()[0]}: threads that keep a state, three calls each")
        print(f"{'threads':>9} {'RSS, KiB':>9}")
        for step in range(STEPS + 1):
            print(f"{step * count // STEPS:9,} {resident_kib():9,}", flush=True)
            if step < STEPS:
                keep(count // STEPS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
