"""Real wheels from PyPI, unmodified, with and without `pep788 shield`.

    python3 examples/shield/prove.py                  cases/: programs that end while callbacks are in flight
    python3 examples/shield/prove.py --popular        popular.py: does anything else change? (same output, same status)
    python3 examples/shield/prove.py --runs 200 --only pyopencl,ortools

It makes a virtual environment of the Python that runs it under build/shield/, with this tree's pep788 and the newest
wheels there are. A table goes to stdout. Exit status 1: a shielded run crashed or hung, or gave another result.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time
import venv
from typing import Counter, Dict, List, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent.parent
sys.path.insert(0, str(HERE))

import popular  # noqa: E402

HANGS_AFTER_SECONDS = 30.0
CASES: Dict[str, Tuple[str, ...]] = {
    "pyopencl_events": ("pyopencl", "pocl-binary-distribution"),
    "ortools_solutions": ("ortools",),
    "zenoh_subscriber": ("eclipse-zenoh",),
    "duckdb_function": ("duckdb",),
    "miniaudio_null": ("miniaudio",),
    "pynng_pipes": ("pynng",),
    "sounddevice_stream": ("sounddevice",),
}


@dataclasses.dataclass(frozen=True)
class Run:
    outcome: str
    output: str
    seconds: float


class Place:
    """The environment that programs run in."""

    def __init__(self) -> None:
        tag = f"{platform.python_version()}-{sys.implementation.cache_tag}"
        self.folder = REPO / "build" / "shield" / tag
        self.python = self.folder / "bin" / "python"
        if not self.python.exists():
            venv.create(self.folder, with_pip=True, symlinks=True)
        self.install("--force-reinstall", "--no-deps", str(REPO))

    def install(self, *words: str) -> bool:
        """Whether pip could."""
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
        with open(self.folder / "pip.log", "a") as log:
            return subprocess.run(command, stdout=log, stderr=log).returncode == 0

    def run(self, argv: Sequence[str], shielded: bool) -> Run:
        command = [str(self.python), *(["-m", "pep788", "shield", "--", str(self.python)] if shielded else []), *argv]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PEP788_")}
        with tempfile.TemporaryFile() as out:
            start = time.monotonic()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
            )
            try:
                status = process.wait(HANGS_AFTER_SECONDS)
                outcome = "exit 0" if status == 0 else f"exit {status}" if status > 0 else signal.Signals(-status).name
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                outcome = "hang"
            seconds = time.monotonic() - start
            out.seek(0)
            text = out.read().decode("utf-8", "replace")
        return Run(outcome, text, seconds)


def told(runs: Sequence[Run]) -> str:
    outcomes: Counter[str] = collections.Counter(run.outcome for run in runs)
    words = [f"{count} {outcome}" for outcome, count in outcomes.most_common()]
    at_limit = sum("gave up waiting" in run.output for run in runs)
    return ", ".join(words) + (f" ({at_limit} after the limit)" if at_limit else "")


def prove_cases(place: Place, names: Sequence[str], count: int, jobs: int) -> bool:
    print(f"| {platform.python_version()}: {count} runs each | without | with the shield | seconds, median |")
    print("|---|---|---|---|")
    good = True
    for name in names:
        if not place.install("--only-binary", ":all:", *CASES[name]):
            print(f"| {name} | no wheel for this Python | | |", flush=True)
            continue
        argv = [str(HERE / "cases" / f"{name}.py")]
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            columns = [list(pool.map(place.run, [argv] * count, [up] * count)) for up in (False, True)]
        medians = [sorted(run.seconds for run in runs)[count // 2] for runs in columns]
        print(f"| {name} | {told(columns[0])} | {told(columns[1])} | {medians[0]:.1f}, {medians[1]:.1f} |", flush=True)
        runs_here = any(run.outcome != "exit 1" for run in columns[0])  # 1: a traceback, such as for a missing library
        good &= not runs_here or all(run.outcome == "exit 0" for run in columns[1])
    return good


def prove_popular(place: Place, names: Sequence[str]) -> bool:
    print(f"| {platform.python_version()} | result | imports protected | seconds without, with |")
    print("|---|---|---|---|")
    good = True
    for name in names:
        if not place.install("--only-binary", ":all:", *popular.REQUIREMENTS.get(name, (name,))):
            print(f"| {name} | no wheel for this Python | | |", flush=True)
            continue
        argv = [str(HERE / "popular.py"), name]
        plain, shielded = place.run(argv, False), place.run(argv, True)
        result, _, protected = shielded.output.rpartition("protected: ")
        same = (plain.outcome, plain.output.rpartition("protected: ")[0]) == (shielded.outcome, result)
        ran = plain.outcome == "exit 0"
        verdict = "same" if same and ran else "does not run here, either way" if same else "DIFFERENT"
        print(f"| {name} | {verdict} | {protected.strip()} | {plain.seconds:.2f}, {shielded.seconds:.2f} |", flush=True)
        if not same:
            print(plain.output, shielded.outcome, shielded.output, sep="\n", file=sys.stderr)
        good &= same
    return good


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--popular", action="store_true", help="the popular wheels in place of the cases")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each case, with and without (default: 20)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at a time (default: 2)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="those that begin so")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.jobs < 1:
        parser.error("--runs and --jobs take a positive number")
    known: List[str] = list(popular.USES if options.popular else CASES)
    starts = tuple(options.only.split(","))
    names = [name for name in known if name.startswith(starts)]
    if not names:
        parser.error(f"--only: none of {', '.join(known)}")
    place = Place()
    good = prove_popular(place, names) if options.popular else prove_cases(place, names, options.runs, options.jobs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
