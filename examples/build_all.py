"""Build each example project in a fresh virtual environment, against the built wheel of pep788, and run it.

    python3 examples/build_all.py                          on the oldest and the newest interpreter
    python3 examples/build_all.py --interpreters 3.12 setuptools vendored

pip builds the projects in isolation, as it does for everybody: what they need comes from their own pyproject.toml,
pep788 from the wheel of this checkout.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import interpreters  # noqa: E402
from setup_env import ATTEMPTS, BUILD, SetupError, copy_sources, run_quietly  # noqa: E402

PROJECTS = ["setuptools", "scikit-build-core", "meson-python", "vendored"]
OLDEST_AND_NEWEST = ["3.9", "3.15"]

USE = """
import importlib.util, threading
import example
assert importlib.util.find_spec("pep788") is None, "needed for building only"
called = threading.Semaphore(0)
def tick():
    called.release()
    return True
example.start(tick)
for _ in range(50):
    called.acquire()
"""


class Builder:
    """Builds on one interpreter of the matrix."""

    def __init__(self, name: str) -> None:
        self.column = interpreters.prepare(name)
        self.folder = BUILD / "examples" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # So Meson finds pep788.pc where there is a pkg-config (in CI, not in the chroot), and asks the package elsewhere.
        ask = [*self.column.python, "-m", "pep788", "config", "--pkgconfigdir"]
        found = subprocess.run(ask, env=dict(self.column.env), stdout=subprocess.PIPE, text=True, check=True)
        self.env = {**self.column.env, "PKG_CONFIG_PATH": found.stdout.strip()}
        self._make_wheel()

    def build_and_run(self, project: str) -> None:
        """The thread is still calling when the program ends."""
        source, venv = self.folder / project, self.folder / f"venv-{project}"
        shutil.copytree(HERE / project, source)
        if project == "vendored":
            self._run([*self.column.python, "-m", "pep788", "vendor", str(source / "vendor")], "pep788 vendor")
        self._run([*self.column.python, "-m", "venv", str(venv)], f"making {venv}")
        python = [*self.column.python[:-1], str(venv / "bin" / "python")]
        pip = [*python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--find-links"]
        self._run([*pip, str(self.folder / "wheels"), str(source)], f"installing {source}", attempts=ATTEMPTS)
        for _ in range(3):
            self._run([*python, "-c", USE], f"{project} on {self.column.name}")

    def _make_wheel(self) -> None:
        copy = self.folder / "pep788-source"
        copy_sources(copy)
        words = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(self.folder / "wheels")]
        self._run([*self.column.python, *words, str(copy)], "making the wheel of pep788")

    def _run(self, argv: Sequence[str], what: str, attempts: int = 1) -> None:
        run_quietly(argv, what=what, env=self.env, attempts=attempts, cwd=self.folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", nargs="*", metavar="PROJECT", help=f"default: {' '.join(PROJECTS)}")
    parser.add_argument("--interpreters", default=",".join(OLDEST_AND_NEWEST), metavar="NAMES", help="default: %(default)s")
    options = parser.parse_args()
    unknown = [name for name in options.projects if name not in PROJECTS]
    if unknown:
        parser.error(f"no such project: {', '.join(unknown)}; there are {', '.join(PROJECTS)}")
    failed = passed = 0
    try:
        builders = [Builder(name) for name in interpreters.select(options.interpreters.split(","))]
    except SetupError as error:
        print(f"examples: {error}", file=sys.stderr)
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = {
            pool.submit(builder.build_and_run, project): f"{project} on {builder.column.name}"
            for project in options.projects or PROJECTS
            for builder in builders
        }
        for job in concurrent.futures.as_completed(jobs):
            error = job.exception()
            failed, passed = failed + bool(error), passed + (not error)
            print(f"{jobs[job]}: {error or 'built, ran'}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
