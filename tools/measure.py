"""What pep788 costs: import and exit of a process, last Close to finalization continuing, size of the header.

Run it with an interpreter that has pep788 installed (`make measure`, or `interpreters.py run NAME tools/measure.py`).
Uses hyperfine when it is there; without it, a plain loop gives the same figures, less well.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pep788

HERE = Path(__file__).resolve().parent
# os._exit leaves finalization out, so that the cost of the exit is what remains of the whole.
PROGRAMS = {
    "bare": "",
    "bare, no exit": "import os; os._exit(0)",
    "import": "import pep788",
    "import, no exit": "import pep788; import os; os._exit(0)",
    "guard": "import pep788\nwith pep788.guard(): pass",
}
CLOSE = """
import gc, sys
sys.path.insert(0, sys.argv[1])
import measure_close
gc.set_threshold(1_000_000)  # the next collection is the one of finalization
gc.callbacks.append(lambda phase, info, report=measure_close.report: report())
measure_close.start(50)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--kept-threads", action="store_true", help="memory over 100,000 threads that kept a state")
    options = parser.parse_args()
    if options.kept_threads:
        with tempfile.TemporaryDirectory() as scratch:
            return kept_threads(Path(scratch), 10_000 if options.quick else 100_000)
    runs = 20 if options.quick else 200
    figures: dict[str, float] = {}
    figures.update(header())
    figures.update(processes(runs))
    with tempfile.TemporaryDirectory() as scratch:
        for name, defines in variants().items():
            figures.update(closing(name, build(Path(scratch, name), defines), max(5, runs // 10)))
    if options.json:
        print(json.dumps({"python": sys.version.split()[0], **figures}, indent=2))
    else:
        print(f"Python {sys.version.split()[0]}, pep788 {pep788.__version__}, {runs} runs")
        for name, value in figures.items():
            print(f"  {name:44} {value:10,.1f}" if value % 1 else f"  {name:44} {value:10,.0f}")
    return 0


def header() -> dict[str, float]:
    data = Path(pep788.get_include(), "pep788.h").read_bytes()
    return {
        "header, bytes": len(data),
        "header, bytes compressed": len(gzip.compress(data, 9, mtime=0)),
        "header, lines": data.count(b"\n"),
    }


def processes(runs: int) -> dict[str, float]:
    """Differences of whole processes, in microseconds."""
    commands = [[sys.executable, "-I", "-c", code] for code in PROGRAMS.values()]
    times = (with_hyperfine if shutil.which("hyperfine") else with_loop)(commands, runs)
    bare, bare_no_exit, imported, imported_no_exit, guarded = (seconds * 1e6 for seconds in times)
    return {
        "process without pep788, us": round(bare),
        "import pep788, us": round(imported_no_exit - bare_no_exit),
        "exit after import pep788, us": round((imported - imported_no_exit) - (bare - bare_no_exit)),
        "first guard, with the exit after it, us": round(guarded - imported),
    }


def with_hyperfine(commands: Sequence[Sequence[str]], runs: int) -> list[float]:
    """In rounds, so that a slow moment of the machine meets all programs: the figures are small differences."""
    times: list[list[float]] = [[] for _ in commands]
    rounds = max(1, runs // 10)
    for _ in range(rounds):
        with tempfile.NamedTemporaryFile(suffix=".json") as result:
            argv = ["hyperfine", "-N", "--warmup", "1", "--runs", str(runs // rounds), "--style", "none"]
            argv += ["--export-json", result.name, *map(shlex.join, commands)]
            subprocess.run(
                argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for row, taken in zip(json.load(result)["results"], times):
                taken += row["times"]
    return [statistics.median(taken) for taken in times]


def with_loop(commands: Sequence[Sequence[str]], runs: int) -> list[float]:
    """All programs in turn, so that a slow moment of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(runs):
        for command, taken in zip(commands, times):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


KEPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
import measure_close
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
count = int(sys.argv[2])
print("  {:>9} {:>9}".format("threads", "RSS, KiB"))
for n in range(11):
    print("  {:9,} {:9,}".format(n * count // 10, resident()), flush=True)
    if n < 10:
        measure_close.keep(count // 10)
"""


def kept_threads(scratch: Path, count: int) -> int:
    """Resident memory of a process in which so many threads, one after the other, keep a thread state and exit."""
    for name, defines in variants().items():
        print(f"Python {sys.version.split()[0]}, {name}: threads that keep a state, three calls each", flush=True)
        path = build(scratch / name, defines)
        subprocess.run([sys.executable, "-I", "-c", KEPT, str(path), str(count)], check=True, stdin=subprocess.DEVNULL)
    return 0


def variants() -> Mapping[str, Sequence[str]]:
    """The implementations there are on this version."""
    if sys.version_info < (3, 15):
        return {"pep788.h": []}
    return {"native": [], "pep788.h": ["-DPEP788_ALWAYS"]}


def build(target: Path, defines: Sequence[str]) -> Path:
    target.mkdir()
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    output = target / f"measure_close{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{pep788.get_include()}"]
    source = str(HERE / "measure_close.c")
    argv = [compiler, "-O2", "-fPIC", "-pthread", *shared, *defines, *includes, source, "-o", str(output)]
    subprocess.run(argv, check=True)
    return target


def closing(name: str, path: Path, runs: int) -> dict[str, float]:
    """Time from the last Close, by a native thread, to the collection that finalization starts with."""
    taken = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-I", "-c", CLOSE, str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        taken.append(int(done.stdout) / 1000)
    return {
        f"last Close to finalization, {name}, median us": round(statistics.median(taken), 1),
        f"last Close to finalization, {name}, worst us": round(max(taken), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
