"""Exit in mid-stream, again and again, with PyAudio as published and as ported, and count what happens.

Each run is a process of its own that plays to ALSA's null device (no sound card needed) and falls off the end of
the script while PortAudio's thread calls back without pause.  The counts come from outside of Python: a preloaded
library (count.c) wraps the callback and keeps its counters in a file, so that a crash cannot lose them.

Exit status 0 only if every run of every ported build ended with status 0, none of its threads was lost, and the
counters show that callbacks were refused at the end.  Linux only: LD_PRELOAD and ALSA.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import build as builder
from build import BuildError, Interpreter, Variant

PROGRAM = builder.HERE / "program.py"
COUNTERS = ("started", "returned", "refused", "failed", "late", "ran_late")
LAYOUT = struct.Struct(f"={len(COUNTERS)}Q")
STOPPING = ("__del__", "atexit")  # these say "stopped" when they have stopped the stream
ENDS = ("left", "freed", "__del__", "atexit")
ASOUNDRC = "pcm.!default {\n    type null\n}\nctl.!default {\n    type null\n}\n"
# What Python writes to stderr when finalization met something it should not have met.
COMPLAINTS = re.compile(r"^(Fatal Python error|Traceback|Exception ignored|pep788: ).*", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One process, from start to end."""

    outcome: str  # "ok", "hang", a signal's name, or "status N"
    counts: dict[str, int]
    out: str
    seconds: float
    complaint: str

    @property
    def lost(self) -> int:
        """Threads of PortAudio that went into PyAudio and never came out."""
        return self.counts["started"] - self.counts["returned"]


@dataclasses.dataclass
class Cell:
    """All runs of one build on one interpreter with one end."""

    interpreter: str
    end: str
    variant: str
    runs: list[Run] = dataclasses.field(default_factory=list)
    unproved: bool = False  # see require_refusals

    def outcomes(self) -> collections.Counter[str]:
        return collections.Counter(run.outcome for run in self.runs)

    def hangs(self) -> int:
        return self.outcomes()["hang"]

    def crashes(self) -> dict[str, int]:
        return {name: n for name, n in sorted(self.outcomes().items()) if name not in ("ok", "hang")}

    def total(self, counter: str) -> int:
        return sum(run.counts[counter] for run in self.runs)

    def runs_with_refusal(self) -> int:
        return sum(run.counts["refused"] > 0 for run in self.runs)

    def faults(self) -> list[str]:
        """Why this cell is not clean; an empty list is the proof."""
        found = [f"{n} x {name}" for name, n in sorted(self.outcomes().items()) if name != "ok"]
        lost = sum(1 for run in self.runs if run.outcome == "ok" and run.lost)
        if lost:
            found.append(f"{lost} runs lost a thread")
        complaints = collections.Counter(run.complaint for run in self.runs if run.complaint)
        found += [f"{n} x {complaint!r}" for complaint, n in sorted(complaints.items())]
        early = sum("the end" not in run.out or run.counts["started"] < 20 for run in self.runs)
        if early:
            found.append(f"{early} runs ended before they played")
        unstopped = sum(self.end in STOPPING and run.outcome == "ok" and "stopped" not in run.out for run in self.runs)
        if unstopped:
            found.append(f"{unstopped} runs did not stop their stream")
        if self.total("failed") or self.total("ran_late"):
            found.append(f"{self.total('ran_late')} callbacks ran after the end, {self.total('failed')} failed")
        if self.unproved:
            found.append("no callback was refused: nothing was in flight, so nothing is proved")
        return found

    def as_dict(self) -> dict[str, object]:
        return {
            "python": self.interpreter,
            "end": self.end,
            "build": self.variant,
            "runs": len(self.runs),
            "ok": self.outcomes()["ok"],
            "crashes": self.crashes(),
            "hangs": self.hangs(),
            "lost": sum(run.lost > 0 for run in self.runs),
            "callbacks": {name: self.total(name) for name in COUNTERS},
            "runs_with_refusal": self.runs_with_refusal(),
            "slowest": round(max((run.seconds for run in self.runs), default=0.0), 3),
            "faults": self.faults(),
        }


def build_counter(under: pathlib.Path) -> pathlib.Path:
    """Compile count.c with the compiler of this machine."""
    compiler = os.environ.get("CC") or "cc"
    if shutil.which(compiler) is None:
        raise BuildError(f"missing, please install:\n  - {builder.PACKAGES['cc']}")
    under.mkdir(parents=True, exist_ok=True)
    library = under / "count.so"
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden"]
    builder.run([compiler, *flags, "-o", str(library), str(builder.HERE / "count.c"), "-ldl"], what="compiling count.c")
    return library


def environment(under: pathlib.Path, library: pathlib.Path, site: pathlib.Path, counters: str) -> dict[str, str]:
    asoundrc = under / "asoundrc"
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PEP788_"))},
        "ALSA_CONFIG_PATH": str(asoundrc),
        "JACK_NO_START_SERVER": "1",
        "LD_PRELOAD": str(library),
        "PYAUDIO_PROVE_COUNTERS": counters,
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def outcome_of(status: int) -> str:
    if status > 128:  # a wrapper script that did not exec
        status = 128 - status
    if status < 0:
        return signal.Signals(-status).name
    return "ok" if status == 0 else f"status {status}"


def run_once(command: list[str], env: dict[str, str], counters: pathlib.Path, limit: float) -> Run:
    """One process in a session of its own; on timeout the whole session is killed."""
    began = time.monotonic()
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    child = subprocess.Popen(command, env=env, stdin=null, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        out, err = child.communicate(timeout=limit)
        outcome = outcome_of(child.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        outcome = "hang"
    complaint = COMPLAINTS.search(err.decode("utf-8", "replace"))
    counts = dict(zip(COUNTERS, LAYOUT.unpack(counters.read_bytes())))
    seconds = time.monotonic() - began
    return Run(outcome, counts, out.decode("utf-8", "replace"), seconds, complaint.group() if complaint else "")


def prove(
    interpreter: Interpreter, site: pathlib.Path, end: str, options: argparse.Namespace, library: pathlib.Path
) -> Run:
    """One run, with counters of its own."""
    with tempfile.NamedTemporaryFile(dir=options.build_dir, prefix="counters-") as counters:
        counters.write(bytes(LAYOUT.size))
        counters.flush()
        env = environment(options.build_dir, library, site, counters.name)
        command = [interpreter.command, str(PROGRAM), end]
        return run_once(command, env, pathlib.Path(counters.name), options.timeout)


def is_judged(cell: Cell) -> bool:
    """The published build is shown for comparison only."""
    return cell.variant.startswith("after")


def require_refusals(cells: list[Cell]) -> None:
    """Mark the cells of each ported build in which no callback met the end.

    Asked of all its cells together: PortAudio's thread may by chance not run between the end and a stream's freeing,
    in up to one run of two on a busy machine.
    """
    for cell in filter(is_judged, cells):
        same = [c for c in cells if (c.interpreter, c.variant) == (cell.interpreter, cell.variant)]
        cell.unproved = cell.end != "atexit" and not any(c.total("refused") for c in same)


HEADINGS = (
    "Python",
    "end",
    "build",
    "runs",
    "ok",
    "crashed",
    "hung",
    "thread lost",
    "callbacks",
    "ran late",
    "refused",
    "verdict",
)


def row_of(cell: Cell) -> tuple[str, ...]:
    crashes = ", ".join(f"{n} {name}" for name, n in cell.crashes().items()) or "-"
    lost = sum(run.outcome == "ok" and run.lost > 0 for run in cell.runs)
    refused = f"{cell.total('refused')} in {cell.runs_with_refusal()} runs" if cell.total("refused") else "-"
    verdict = "" if not is_judged(cell) else "FAILED" if cell.faults() else "ok"
    return (
        cell.interpreter,
        cell.end,
        cell.variant,
        str(len(cell.runs)),
        str(cell.outcomes()["ok"]),
        crashes,
        str(cell.hangs() or "-"),
        str(lost or "-"),
        str(cell.total("started")),
        str(cell.total("ran_late") or "-"),
        refused,
        verdict,
    )


def table(cells: list[Cell]) -> str:
    rows = [HEADINGS, *(row_of(cell) for cell in cells)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    rule = tuple("-" * width for width in widths)
    rows.insert(1, rule)
    return "\n".join("| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |" for row in rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    builder.add_arguments(parser)
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="processes for each cell (default: 100)")
    parser.add_argument("--end", action="append", choices=ENDS, help="what becomes of the stream (default: all)")
    parser.add_argument("--only", action="append", metavar="BUILD", help="only this build; repeat (default: all)")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 2), metavar="N", help="processes at once")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="a run longer than this hangs")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the table there")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    options.header, options.build_dir = options.header.resolve(), options.build_dir.resolve()
    return options


def chosen_variants(options: argparse.Namespace) -> list[Variant]:
    """PEP788_TEST_ALWAYS=1, as in the matrix's column of that name: only what the column beside it does not run."""
    always = os.environ.get("PEP788_TEST_ALWAYS") == "1"
    variants = [builder.AFTER_ALWAYS] if always else builder.chosen_variants(options)
    return [v for v in variants if not options.only or v.name in options.only]


def measure(options: argparse.Namespace) -> list[Cell]:
    """Build everything first, so that a build that cannot be made is not found out after an hour."""
    variants = chosen_variants(options)
    library = build_counter(options.build_dir)
    (options.build_dir / "asoundrc").write_text(ASOUNDRC)
    sites: list[tuple[Interpreter, Variant, pathlib.Path]] = []
    for interpreter in map(builder.examine, options.python or [sys.executable]):
        for variant in variants:
            print(f"building: {interpreter.label} {variant.name}", file=sys.stderr, flush=True)
            sites.append((interpreter, variant, builder.build(interpreter, variant, options.header, options.build_dir)))
    cells = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for interpreter, variant, site in sites:
            for end in options.end or ENDS:
                cell = Cell(interpreter.label, end, variant.name)
                runs = [pool.submit(prove, interpreter, site, end, options, library) for _ in range(options.runs)]
                cell.runs = [run.result() for run in runs]
                cells.append(cell)
                print("  ".join(row_of(cell)), file=sys.stderr, flush=True)
    require_refusals(cells)
    return cells


def main() -> int:
    options = parse()
    if not sys.platform.startswith("linux"):
        print("prove.py: needs Linux (ALSA's null device and LD_PRELOAD)", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # hundreds of expected crashes
    try:
        cells = measure(options)
    except BuildError as error:
        print(f"prove.py: {error}", file=sys.stderr)
        return 2
    print(table(cells))
    if options.json:
        options.json.write_text(json.dumps([cell.as_dict() for cell in cells], indent=1) + "\n")
    judged = [cell for cell in cells if is_judged(cell)]
    failed = [cell for cell in judged if cell.faults()]
    for cell in failed:
        print(f"FAILED {cell.interpreter} {cell.end} {cell.variant}: {'; '.join(cell.faults())}")
    if not judged:
        print("prove.py: no ported build was run, nothing is proved", file=sys.stderr)
    print(f"{len(judged) - len(failed)} passed, {len(failed)} failed")  # cells; tools/matrix.py adds these up
    return 0 if judged and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
