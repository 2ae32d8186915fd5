"""Programs whose C library calls Python from threads of its own and that end in the middle of it, many times.

    python3 examples/callback/prove.py --runs 200                             this interpreter
    python3 tools/interpreters.py run 3.14 examples/callback/prove.py         another one of the matrix

Each runs as it is, and with its callback through `pep788.callback`.  Exit status 0 only if every run of the latter
ended with status 0, lost no thread and complained of nothing.  The interpreter needs pep788 and cffi (`pip install
.[test]`); sounddevice comes from PyPI as a wheel, is checked against its SHA-256, and one copy of it is patched.
Linux only: ALSA.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("PEP788_BUILD_DIR") or HERE.parent.parent / "build") / "callback"
WHEEL = "sounddevice-0.5.6-py3-none-any.whl"
SHA256 = "de099612311ad81e55d31ccbd83f43ea6bf4d87b48f9b6ea55a1fbcde0eee4e0"
LOADED, PEP788 = (HERE / f"sounddevice-0.5.6-{name}.patch" for name in ("loaded", "pep788"))
ASOUNDRC = "pcm.!default {\n    type null\n}\nctl.!default {\n    type null\n}\n"
COMPLAINTS = re.compile(r"^(Fatal Python error|Traceback|Exception ignored|From cffi|pep788: ).*", re.MULTILINE)
VARIANTS = {
    # "loaded": published, but PortAudio is not unloaded while its threads run.
    "sounddevice": {"before": (), "loaded": (LOADED,), "after": (LOADED, PEP788)},
    "ctypes, C threads": {"before": (), "after": ()},
    "ctypes, C++ threads": {"before": (), "after": ()},
}


class SetupError(Exception):
    """Something the user has to install; the message says what."""


@dataclasses.dataclass
class Cell:
    """All runs of one program, as it is or with `pep788.callback`."""

    program: str
    variant: str
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def failed(self) -> bool:
        return self.variant == "after" and set(self.outcomes) != {"ok"}

    def row(self) -> str:
        wrong = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()) if name != "ok")
        verdict = "" if self.variant != "after" else "FAILED" if self.failed else "ok"
        python = platform.python_version()
        return f"| {python} | {self.program} | {self.variant} | {self.outcomes['ok']} | {wrong or '-'} | {verdict} |"


def quietly(argv: list[str], what: str) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SetupError(f"{what} failed:\n{done.stdout}")


def check_requirements() -> None:
    missing = [name for name in ("pep788", "cffi", "pip") if importlib.util.find_spec(name) is None]
    missing += [name for name in ("cc", "c++", "patch") if shutil.which(name) is None]
    if missing:
        raise SetupError(f"missing for {sys.executable}: {', '.join(missing)}")
    quietly([sys.executable, "-c", "import pep788._callback"], "importing pep788.callback (was it built with libffi?)")


def build_libraries() -> None:
    flags = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread"]
    for compiler, source in ("cc", "pool.c"), ("c++", "pool.cpp"), ("cc", "linger.c"):
        quietly([compiler, *flags, str(HERE / source), "-o", str(BUILD / f"{source}.so")], f"compiling {source}")


def fetch_sounddevice() -> None:
    wheel = BUILD / WHEEL
    if not wheel.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "-d", str(BUILD)]
        quietly([*pip, "sounddevice==0.5.6"], "downloading sounddevice")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SetupError(f"{wheel} is not what this was written for: delete it and try again")
    for variant, patches in VARIANTS["sounddevice"].items():
        shutil.rmtree(BUILD / variant, ignore_errors=True)
        zipfile.ZipFile(wheel).extractall(BUILD / variant)
        for patch in patches:
            quietly(["patch", "--quiet", "-p1", "-d", str(BUILD / variant), "-i", str(patch)], f"applying {patch}")
    (BUILD / "asoundrc").write_text(ASOUNDRC)


def command(program: str, variant: str) -> tuple[list[str], dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PEP788_"))}
    kept["PYTHONDONTWRITEBYTECODE"] = "1"
    if program == "sounddevice":
        alsa = {"ALSA_CONFIG_PATH": str(BUILD / "asoundrc"), "JACK_NO_START_SERVER": "1"}
        argv = [sys.executable, str(HERE / "play.py"), str(BUILD / "linger.c.so")]
        return argv, {**kept, **alsa, "PYTHONPATH": str(BUILD / variant)}
    library = BUILD / ("pool.cpp.so" if "C++" in program else "pool.c.so")
    return [sys.executable, str(HERE / "pool.py"), str(library), variant], kept


def run_once(program: str, variant: str, limit: float) -> str:
    """How one process ended: "ok", or what was wrong."""
    argv, env = command(program, variant)
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
    )
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return "hung"
    return outcome(child.returncode, out, err)


def outcome(status: int, out: str, err: str) -> str:
    if status:
        return signal.Signals(-status).name if status < 0 else f"status {status}"
    if "the end\n" not in out:
        return "ended too early"
    lost = re.search(r"^lost (\d+)$", out, re.MULTILINE)
    if lost and lost[1] != "0":
        return "lost a thread"
    complaint = COMPLAINTS.search(err)
    return complaint[0] if complaint else "ok"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="processes with pep788 (default: 100)")
    parser.add_argument("--runs-before", type=int, default=20, metavar="N", help="processes without (default: 20)")
    parser.add_argument("--only", action="append", choices=VARIANTS, help="only this program; repeat (default: all)")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), metavar="N", help="processes at once")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="a run longer than this hangs")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def main() -> int:
    options = parse()
    if not sys.platform.startswith("linux"):
        print("prove.py: needs Linux (ALSA's null device)", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # hundreds of expected crashes
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        check_requirements()
        build_libraries()
        fetch_sounddevice()
    except SetupError as error:
        print(f"prove.py: {error}", file=sys.stderr)
        return 2
    cells = []
    print("| Python | program | callback | ok | not ok | verdict |\n|---|---|---|---|---|---|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for program in options.only or VARIANTS:
            for variant in VARIANTS[program]:
                runs = options.runs if variant == "after" else options.runs_before
                done = [pool.submit(run_once, program, variant, options.timeout) for _ in range(runs)]
                cells.append(Cell(program, variant, collections.Counter(run.result() for run in done)))
                print(cells[-1].row(), flush=True)
    failed = sum(cell.failed for cell in cells)
    print(f"{len(options.only or VARIANTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
