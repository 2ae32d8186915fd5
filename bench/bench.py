"""What pep788 costs, and what the alternatives cost, on every interpreter of the matrix: tables, plots and a JSON.

    python bench/bench.py                                 everything, a quarter of an hour
    python bench/bench.py --quick                         less of everything, to see that it works
    python bench/bench.py --only guard,callbacks          some rows
    python bench/bench.py --interpreters 3.9,3.15-always  some interpreters; `here` is the one that runs this
    python bench/bench.py --from build/bench/bench.json   tables and plots again, without measuring

bench/README.md says how to read the results. One interpreter is measured at a time, and while something is measured
nothing else is done. Ctrl-C ends it and writes what there is.

Exit status: 0 measured (whatever came of it), 1 something could not be measured, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import difflib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import interpreters  # noqa: E402
import matrix  # noqa: E402
import tables  # noqa: E402
from rows import GROUPS  # noqa: E402
from setup_env import BUILD, CHECKOUT, SetupError, locked, run_quietly  # noqa: E402

DEFAULT = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15", "3.15-always")
QUICK = ("3.9", "3.11", "3.14", "3.15-always")  # one of each kind, so that it takes two minutes at most
HERE_NAME = "here"
LIBRARIES = ("pybind11", "nanobind", "cffi")
OUTPUT = BUILD / "bench"
LOGS = BUILD / "logs" / "bench"
FORMAT = 1
TIMEOUT = 1800.0  # of one interpreter


@dataclasses.dataclass(frozen=True)
class Place:
    """An interpreter that can be measured."""

    name: str
    python: Sequence[str]
    env: Mapping[str, str]
    build: Path
    always: bool


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stopped = False
        self.columns: dict[str, dict[str, Any]] = {}
        self.places: dict[str, Place] = {}

    # -- getting ready: as much at once as there are processors, before anything is measured --

    def prepare(self) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        print("getting the interpreters ready ...", flush=True)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            waiting = {name: pool.submit(self.ready, name) for name in self.options.interpreters}
            for name, future in waiting.items():
                column = self.columns[name] = {"samples": {}, "missing": {}, "failed": {}}
                try:
                    self.places[name], libraries = future.result()
                    if libraries:
                        column["libraries not installed"] = libraries
                except SetupError as error:
                    why = str(error).splitlines()[0]
                    column["failed"][""] = why
                    print(f"{name:12} {why}", flush=True)

    def ready(self, name: str) -> tuple[Place, dict[str, str]]:
        """The environment, the other libraries, and everything compiled."""
        if self.stopped:
            raise SetupError("not started")
        if name == HERE_NAME:
            always = sys.version_info >= (3, 15) and os.environ.get("PEP788_TEST_ALWAYS") == "1"
            tag = hashlib.sha256(sys.version.encode()).hexdigest()[:8]
            place = Place(name, [sys.executable], dict(os.environ), OUTPUT / f"here-{tag}", always)
            libraries: dict[str, str] = {}
        else:
            column = interpreters.prepare(name)
            always = column.env.get("PEP788_TEST_ALWAYS") == "1"
            place = Place(name, column.python, column.env, column.build / "bench", always)
            libraries = self.install(place) if "callbacks" in self.options.only else {}
        process = self.start(place, "prepare")
        process.communicate()
        self.finished(process, place)
        if self.stopped:
            raise SetupError("not started")
        if process.returncode:
            raise SetupError(f"the modules for {name} could not be built: {last_line(self.log(name))}")
        return place, libraries

    def install(self, place: Place) -> dict[str, str]:
        """The libraries to compare with, one by one: where one has no version for an interpreter, the others stay."""
        failed = {}
        with locked(BUILD / "locks" / f"bench-{Path(place.python[-1]).parents[1].name}"):
            for name in LIBRARIES:
                code = f"import importlib.metadata as m; m.version({name!r})"
                argv = [*place.python, "-I", "-c", code]
                if subprocess.run(argv, env=dict(place.env), stderr=subprocess.DEVNULL).returncode == 0:
                    continue
                pip = [*place.python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q"]
                try:
                    run_quietly([*pip, requirement(name)], what=f"installing {name}", env=dict(place.env), attempts=2)
                except SetupError as error:
                    failed[name] = [line for line in str(error).splitlines() if line.strip()][-1]
        return failed

    # -- measuring --

    def measure(self) -> None:
        with locked(BUILD / "locks" / "bench"):  # two at once would measure each other
            for place in self.places.values():
                if self.stopped:
                    break
                self.one(place)

    def one(self, place: Place) -> None:
        column = self.columns[place.name]
        column["busy"] = round(busy(), 1)
        start = time.monotonic()
        process = self.start(place, "measure")
        assert process.stdout is not None
        group = ""
        alarm = threading.Timer(TIMEOUT, matrix.kill_marked, [self.mark(place.name)])
        alarm.start()
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # it was killed in the middle of a line
            said = json.loads(line)
            take(column, said)
            if said["kind"] == "sample" and said["group"] != group:
                group = said["group"]
                progress(f"{place.name}: {group}")
        alarm.cancel()
        left = self.finished(process, place)
        column["seconds"] = round(time.monotonic() - start, 1)
        if process.returncode and not self.stopped:
            column["failed"][""] = f"ended with status {process.returncode}: {last_line(self.log(place.name))}"
        if left and not self.stopped:
            column["failed"][""] = f"left {left} processes behind"
        for library, why in column.pop("libraries not installed", {}).items():
            missing = column["missing"].setdefault("callbacks", {})
            for contender in list(missing):
                if contender.startswith(library):
                    missing[contender] = why
        progress("")
        count = sum(len(values) for found in column["samples"].values() for values in found.values())
        failed = "".join(f"; {key or 'all'}: {why}" for key, why in column["failed"].items())
        print(f"{place.name:12} {count} samples in {column['seconds']:.0f} s{failed}", flush=True)

    def start(self, place: Place, task: str) -> subprocess.Popen[str]:
        options = self.options
        settings = {
            "groups": options.only,
            "repeats": options.repeats,
            "always": place.always,
            "build": str(place.build),
            "include": str(options.headers),
            "window_ms": 3 if options.quick else 10,
            "gil_window_ms": 15 if options.quick else 60,
            "warm_ms": 1 if options.quick else 3,
            "interpreters": [1, 10, 100] if options.quick else [1, 100, 1000],
        }
        argv = [*place.python, str(HERE / "worker.py"), json.dumps(settings), task]
        env = {**place.env, matrix.MARK: self.mark(place.name), "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log(place.name).open("w" if task == "prepare" else "a") as log:
            process = subprocess.Popen(
                argv,
                cwd=CHECKOUT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        if self.stopped:
            self.stop()
        return process

    def finished(self, process: subprocess.Popen[str], place: Place) -> int:
        """Wait for its end; returns how many children it left behind, which are killed."""
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return matrix.kill_marked(self.mark(place.name))

    def mark(self, name: str) -> str:
        return f"bench-{os.getpid()}-{name}"

    def log(self, name: str) -> Path:
        return LOGS / f"{name}.log"

    def stop(self, *_: object) -> None:
        """Kill what runs; what it had said by then is kept."""
        self.stopped = True
        for name in self.options.interpreters:
            matrix.kill_marked(self.mark(name))

    def results(self) -> dict[str, Any]:
        options = self.options
        return {
            "format": FORMAT,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "arguments": sys.argv[1:],
            "repeats": options.repeats,
            "quick": options.quick,
            "include": str(options.include) if options.include else "",
            "groups": options.only,
            "interrupted": self.stopped,
            "machine": machine(),
            "columns": self.columns,
        }


def take(column: dict[str, Any], said: Mapping[str, Any]) -> None:
    """Put what a worker said into its column."""
    kind = said["kind"]
    if kind == "sample":
        group = column["samples"].setdefault(said["group"], {})
        group.setdefault(said["contender"], []).append(said["value"])
    elif kind == "missing":
        column["missing"].setdefault(said["group"], {})[said["contender"]] = said["why"]
    elif kind == "failed":
        column["failed"][said["group"]] = said["why"]
    elif kind == "commands":
        column["commands"] = said["commands"]
    else:
        column["about"] = {key: value for key, value in said.items() if key != "kind"}


def requirement(name: str) -> str:
    """As the extra `bench` of pyproject.toml has it."""
    found = re.search(rf'"({name}[^"]*)"', (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    return found.group(1) if found else name


def busy(seconds: float = 0.5) -> float:
    """Percent of the processors that others use while we do nothing; 0 where it cannot be told."""

    def times() -> tuple[int, int]:
        words = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return words[3] + words[4], sum(words[:8])

    try:
        idle, total = times()
        time.sleep(seconds)
        idle_after, total_after = times()
    except (OSError, IndexError, ValueError):
        return 0.0
    return 100 * (1 - (idle_after - idle) / max(1, total_after - total))


def machine() -> dict[str, str]:
    """By pyperf, which knows where the systems keep these things; what names the machine or its owner is left out."""
    basic = {"platform": platform.platform(), "cpu_count": str(os.cpu_count())}
    if platform.processor():  # Linux seldom tells
        basic["cpu_model_name"] = platform.processor()
    if importlib.util.find_spec("pyperf") is None:
        return basic
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "metadata.json")
        argv = [sys.executable, "-m", "pyperf", "collect_metadata", "-o", str(file)]
        if subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True).returncode:
            return basic
        found = json.loads(file.read_text())
    metadata = found.get("metadata") or found["benchmarks"][0]["metadata"]
    kept = ("cpu_", "platform", "aslr", "load_avg", "boot_time", "timer", "perf_version")
    return {**basic, **{key: str(value) for key, value in metadata.items() if key.startswith(kept)}}


def commit() -> str:
    """With a + when files differ from it."""
    argv = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"nothing in {log}"


def progress(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


def write(results: Mapping[str, Any], file: Path, pictures: bool) -> None:
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    folder = file.parent
    names: list[str] = []
    if pictures and importlib.util.find_spec("matplotlib"):
        import plots

        names = plots.draw(results, folder)
    elif pictures:
        print("no plots: matplotlib is not installed (pip install 'pep788[bench]')", file=sys.stderr)
    page = file.with_suffix(".md")
    page.write_text(tables.markdown(results, names), encoding="utf-8")
    tables.terminal(results)
    print(f"written: {', '.join(map(str, [file, page, *(folder / name for name in names)]))}", flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = "\n".join(f"  {name:10} {words}" for name, words in GROUPS.items())
    parser.epilog = f"rows:\n{rows}"
    default = f"default: {','.join(DEFAULT)}; with --quick {','.join(QUICK)}"
    parser.add_argument("--interpreters", default="", metavar="NAMES", help=default)
    parser.add_argument("--only", default=",".join(GROUPS), metavar="ROWS", help="rows, separated by commas")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds (default: 50; with --quick 5)")
    parser.add_argument("--quick", action="store_true", help="few, short rounds")
    parser.add_argument("--json", type=Path, default=OUTPUT / "bench.json", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--include", type=Path, metavar="DIR", help="measure the pep788.h in this folder")
    parser.add_argument("--no-plots", action="store_true")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="show these results again")
    options = parser.parse_args(arguments)
    options.interpreters = options.interpreters or ",".join(QUICK if options.quick else DEFAULT)
    options.interpreters = listed(parser, "interpreter", options.interpreters, [*interpreters.BY_NAME, HERE_NAME])
    debug = [name for name in options.interpreters if name != HERE_NAME and interpreters.BY_NAME[name].debug]
    if debug:
        parser.error(f"{', '.join(debug)}: what a debug build takes tells nothing; there are {', '.join(DEFAULT)}")
    options.only = listed(parser, "row", options.only, list(GROUPS))
    options.repeats = options.repeats if options.repeats is not None else 5 if options.quick else 50
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: at least 1")
    options.headers = CHECKOUT / "src" / "pep788" / "include"
    if options.include:
        if not (options.include / "pep788.h").is_file():
            parser.error(f"--include {options.include}: there is no pep788.h in it")
    if options.source and not options.source.is_file():
        parser.error(f"--from {options.source}: no such file")
    if options.json.is_dir() or not options.json.suffix:
        parser.error(f"--json {options.json}: the name of a file, such as results.json")
    return options


def listed(parser: argparse.ArgumentParser, what: str, text: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            parser.error(f"no such {what}: {name}{hint} There are {', '.join(known)}")
    if not names:
        parser.error(f"no {what} was named; there are {', '.join(known)}")
    return names


def copy_headers(options: argparse.Namespace) -> None:
    """Into the checkout, which is all that a chroot sees."""
    data = (options.include / "pep788.h").read_bytes()
    options.headers = OUTPUT / "include" / hashlib.sha256(data).hexdigest()[:16]
    options.headers.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.include / "pep788.h", options.headers)


def show_again(options: argparse.Namespace) -> int:
    try:
        results = json.loads(options.source.read_text(encoding="utf-8"))
        known = results["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        print(f"bench: {options.source} is not a result of this benchmark: {error!r}", file=sys.stderr)
        return 2
    if not known:
        print(f"bench: {options.source} has format {results['format']}, not {FORMAT}", file=sys.stderr)
        return 2
    write(results, options.json, not options.no_plots)
    return 0


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    if options.source:
        return show_again(options)
    if options.include:
        copy_headers(options)
    bench = Bench(options)

    def interrupted(number: int, frame: object) -> None:
        if bench.stopped:
            os._exit(128 + number)
        print("bench: stopping; once more to stop at once, and write nothing", file=sys.stderr, flush=True)
        bench.stop()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    bench.prepare()
    bench.measure()
    results = bench.results()
    write(results, options.json, not options.no_plots)
    if bench.stopped:
        print("bench: interrupted; what was measured by then is written", file=sys.stderr)
        return 130
    return 1 if any(column["failed"] for column in bench.columns.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
