"""Real wheels from PyPI, unmodified, and plain native threads: with and without `pep788 shield`.

    python3 examples/shield/prove.py                  CASES, which end while callbacks are in flight: 200 runs a cell
    python3 examples/shield/prove.py --only zenoh,loops --amplifier on --runs 20 --results mine.json
    python3 examples/shield/prove.py --table          what results.json says, as Markdown
    python3 examples/shield/prove.py --popular        popular.py: does anything else change? (same output, same status)

It makes a virtual environment of the Python that runs it under build/shield/, with this tree's pep788 and the newest
wheels there are, and lets `pep788 stress --compare` run each case there. What comes of each cell is added to
results.json; one that is there is not run again without --again. The whole reports are kept in build/shield/.
Exit status 1: a shielded run failed, or gave another result.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from typing import Any, Dict, List, Mapping, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent.parent
EXITS = REPO / "tests" / "tools" / "exits"
sys.path.insert(0, str(HERE))

import popular  # noqa: E402

HANGS_AFTER_SECONDS = 30.0
RESULTS = HERE / "results.json"


@dataclasses.dataclass(frozen=True)
class Case:
    """A program that ends while native threads call back."""

    about: str
    program: pathlib.Path
    arguments: Tuple[str, ...] = ()
    """{built}: the library or extension module made of `source`."""
    requirements: Tuple[str, ...] = ()
    source: pathlib.Path | None = None


def _wheel(name: str, about: str, *requirements: str) -> Case:
    return Case(about, HERE / "cases" / f"{name}.py", requirements=requirements)


UNMODIFIED = REPO / "tests" / "shutdown" / "programs" / "unmodified.cpp"
POOL = EXITS / "red_ctypes_pool.py"
CASES: Dict[str, Case] = {
    "loops": Case("four threads in a loop of `PyGILState`", EXITS / "red_loops.py", source=EXITS / "loops.c"),
    "c_pool": Case("C pool, ctypes callback", POOL, ("{built}", "100"), source=EXITS / "pool.c"),
    "cxx_pool": Case("C++ pool, `noexcept`, ctypes callback", POOL, ("{built}", "100"), source=EXITS / "noexcept.cpp"),
    "daemon_frames": Case(
        "daemon threads in C++ frames, `gil_scoped_release`", HERE / "cases" / "daemon_frames.py", source=UNMODIFIED
    ),
    "zenoh_subscriber": _wheel("zenoh_subscriber", "eclipse-zenoh (PyO3): subscriber", "eclipse-zenoh"),
    "duckdb_function": _wheel("duckdb_function", "duckdb (pybind11): Python function in a query", "duckdb"),
    "sounddevice_stream": _wheel(
        "sounddevice_stream", "sounddevice (cffi) in mid-stream, its atexit hook unregistered", "sounddevice"
    ),
    "pyopencl_events": _wheel(
        "pyopencl_events", "pyopencl (nanobind) on PoCL: event callbacks", "pyopencl", "pocl-binary-distribution"
    ),
    "ortools_solutions": _wheel("ortools_solutions", "ortools (pybind11): solution and log callbacks", "ortools"),
    "pynng_pipes": _wheel("pynng_pipes", "pynng (cffi): pipe callbacks", "pynng"),
    "miniaudio_null": _wheel("miniaudio_null", "miniaudio (cffi), null device", "miniaudio"),
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

    def versions(self, packages: Sequence[str]) -> Dict[str, str]:
        code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        words = subprocess.run([self.python, "-c", code, *packages], check=True, stdout=subprocess.PIPE, text=True)
        return dict(zip(packages, words.stdout.split()))

    def build(self, source: pathlib.Path) -> pathlib.Path:
        """A library, which is an extension module as well if it has such a function."""
        compiler = "c++" if source.suffix == ".cpp" else "cc"
        target = self.folder / "built" / f"{source.stem}.so"
        target.parent.mkdir(exist_ok=True)
        include = sysconfig.get_path("include")
        words = [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-I", include, str(source), "-o", str(target)]
        subprocess.run(words, check=True)
        return target

    def run(self, argv: Sequence[str], shielded: bool) -> Run:
        command = [str(self.python), *(["-m", "pep788", "shield", "--", str(self.python)] if shielded else []), *argv]
        with tempfile.TemporaryFile() as out:
            start = time.monotonic()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment(), start_new_session=True
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

    def compare(self, case: Case, runs: int, jobs: int, amplified: bool, report: pathlib.Path) -> Dict[str, Any]:
        """What `pep788 stress --compare` says of the case, without and with the shield."""
        environment = _environment()
        words = list(case.arguments)
        if case.source is not None:
            built = self.build(case.source)
            words = [word.format(built=built) for word in words]
            environment["PYTHONPATH"] = str(built.parent)
        program = [str(self.python), str(case.program), *words]
        command = [str(self.python), "-m", "pep788", "stress", "--compare", "--runs", str(runs), "--jobs", str(jobs)]
        command += [] if amplified else ["--no-amplify"]
        command += ["--format", "json", "--output", str(report)]
        command += ["--", *program, "--", str(self.python), "-m", "pep788", "shield", "--", *program]
        report.parent.mkdir(parents=True, exist_ok=True)
        status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
        if status not in (0, 1):
            raise SystemExit(f"prove.py: pep788 stress ended with {status}: {' '.join(command)}")
        found: Dict[str, Any] = json.loads(report.read_text())
        return found


def _environment() -> Dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PEP788_")}


# --- cases --------------------------------------------------------------------------------------------------------


def prove_cases(names: Sequence[str], options: argparse.Namespace) -> bool:
    version = platform.python_version()
    place = None
    good = True
    for name in names:
        case = CASES[name]
        for amplified in {"on": [True], "off": [False], "both": [False, True]}[options.amplifier]:
            key = f"{name} {version} {'amplified' if amplified else 'plain'}"
            cells = read(options.results)
            if key not in cells or options.again:
                place = place or Place()
                if case.requirements and not place.install("--only-binary", ":all:", *case.requirements):
                    print(f"{key}: no wheel for this Python", flush=True)
                    break
                report = place.folder / "reports" / f"{key.replace(' ', '-')}.json"
                found = place.compare(case, options.runs, options.jobs, amplified, report)
                cells = {**read(options.results), key: cell_of(name, amplified, found, place.versions(case.requirements))}
                write(options.results, cells)
            cell = cells[key]
            print(f"{key}: {told(cell['without'])} -> {told(cell['with'])} of {cell['runs']}", flush=True)
            good &= not failures(cell["with"])
    return good


def cell_of(name: str, amplified: bool, report: Mapping[str, Any], versions: Mapping[str, str]) -> Dict[str, Any]:
    without, shielded = report["cells"]
    return {
        "case": name,
        "python": platform.python_version(),
        "amplifier": amplified,
        "date": datetime.date.today().isoformat(),
        "runs": len(shielded["runs"]),
        "wheels": dict(versions),
        "seed": report["seed"],
        "without": side_of(without),
        "with": side_of(shielded),
    }


def side_of(cell: Mapping[str, Any]) -> Dict[str, Any]:
    seconds = sorted(run["seconds"] for run in cell["runs"])
    kinds: Dict[str, int] = {}
    for group in cell["groups"]:
        kind = f"{group['verdict']}: {group['title']}"
        kinds[kind] = kinds.get(kind, 0) + len(group["seeds"])
    return {
        "counts": {verdict: count for verdict, count in cell["counts"].items() if count},
        "kinds": kinds,
        "unseen": sum(not run["seen"] for run in cell["runs"]),
        "seconds": round(seconds[len(seconds) // 2], 2),
    }


def read(path: pathlib.Path) -> Dict[str, Any]:
    cells: Dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return cells


def write(path: pathlib.Path, cells: Mapping[str, Any]) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(cells, indent=1, sort_keys=True) + "\n")
    scratch.replace(path)


def failures(side: Mapping[str, Any]) -> int:
    return sum(count for verdict, count in side["counts"].items() if verdict != "ok")


def told(side: Mapping[str, Any]) -> str:
    words = [f"{count} {verdict}" for verdict, count in side["counts"].items() if verdict != "ok"]
    return ", ".join(words) or "0"


def table(cells: Mapping[str, Any]) -> List[str]:
    """A row for each case and amplifier, a column for each interpreter."""
    pythons = sorted({cell["python"] for cell in cells.values()}, key=lambda text: [int(w) for w in text.split(".")])
    rows = [f"| case | amplifier | {' | '.join(pythons)} |", "|---|---|" + "---|" * len(pythons)]
    for name, case in CASES.items():
        for amplified in (False, True):
            mine = {c["python"]: c for c in cells.values() if (c["case"], c["amplifier"]) == (name, amplified)}
            if mine:
                texts = [f"{told(c['without'])} → {told(c['with'])}" if c else "" for c in map(mine.get, pythons)]
                rows.append(f"| {case.about} | {'on' if amplified else 'off'} | {' | '.join(texts)} |")
    return rows


# --- popular wheels -----------------------------------------------------------------------------------------------


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
    parser.add_argument("--table", action="store_true", help="run nothing: print the results as Markdown")
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="of each case, with and without (default: 200)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at a time (default: 2)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="those that begin so")
    parser.add_argument("--amplifier", choices=("off", "on", "both"), default="both", help="default: both")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, metavar="FILE", help="default: results.json here")
    parser.add_argument("--again", action="store_true", help="run also the cells that are there")
    options = parser.parse_args(arguments)
    if options.table:
        print(*table(read(options.results)), sep="\n")
        return 0
    if options.runs < 1 or options.jobs < 1:
        parser.error("--runs and --jobs take a positive number")
    known: List[str] = list(popular.USES if options.popular else CASES)
    starts = tuple(options.only.split(","))
    names = [name for name in known if name.startswith(starts)]
    if not names:
        parser.error(f"--only: none of {', '.join(known)}")
    good = prove_popular(Place(), names) if options.popular else prove_cases(names, options)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
