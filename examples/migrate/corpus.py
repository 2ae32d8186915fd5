"""Migrate real packages with `pep788 migrate`, build them before and after, and run their own tests on both.

    make migrated                                    all packages, on the Python that make uses
    python corpus.py --python python3.9 pysqlite3    one package on another interpreter

The sdists come from PyPI and are checked against their SHA-256; what their authors would have to decide is in
decisions/, one file a package.  Ends with a table, and with "N passed, N failed": a package has failed if it does not
build, if a test that passed before does not pass after, or if a site is left undecided.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "migrated"
# 80.9.0: newer setuptools still claims 3.9 but fails to import there
TOOLS = ("setuptools==80.9.0", "wheel", "cython>=3", "pytest", "parameterized")
TIMEOUT_S = 1200
# pytest as if the sdist lay alone: not the configuration of this repository, nor the sources instead of what was built.
ALONE = ("-c", os.devnull, "--rootdir=.", "--import-mode=importlib", "-p", "no:cacheprovider")

# Of unittest's and of pytest's verbose output: the test, and how it went.
UNITTEST = re.compile(r"^(\w+ \([\w.<>]+\))(?:\n.*)?? \.\.\. (ok|skipped|FAIL|ERROR|expected failure)", re.MULTILINE)
PYTEST = re.compile(r"^(\S+::.+?) (PASSED|SKIPPED|FAILED|ERROR|XFAIL|XPASS)", re.MULTILINE)
PASSED = ("ok", "PASSED", "expected failure", "XFAIL")


class Failure(Exception):
    """A step that did not work; the message has its output."""


@dataclasses.dataclass(frozen=True)
class Package:
    """An sdist, what to install for it, and how to test it.

    `sources` is the folder to migrate, `vendor` where the header goes; `tests` are arguments for Python, run in
    `folder` of the unpacked sdist; `by_hand` is what its author has to change beside (file, old text, new text).
    """

    name: str
    version: str
    sha256: str
    needs: str
    sources: str
    vendor: str
    folder: str = "."
    tests: tuple[str, ...] = ()
    by_hand: tuple[tuple[str, str, str], ...] = ()

    @property
    def sdist(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


PACKAGES = (
    Package(
        "pysqlite3", "0.6.1", "dd7d2b7f3a29aebdbf569c359658b091d3345b5691d9ea765a5c3febe8872bf9", "libsqlite3-dev",
        "src", "src", "src", (str(HERE / "run_pysqlite3_tests.py"),),
    ),
    Package(
        "PyAudio", "0.2.14", "78dfff3879b4994d1f4fc6485646a57755c6ee3c19647a491f790a0895bd2f87", "portaudio19-dev",
        "src/pyaudio", "src/pyaudio",
    ),
    Package(
        "plyvel", "1.5.1", "3caf6009e4fc24fbf8712d3f5ef3da7e56495c26a488df2161218fc34e46019c", "libleveldb-dev",
        "plyvel", "plyvel", "test",
        ("-m", "pytest", "-v", *ALONE, "test_plyvel.py", "--deselect=test_plyvel.py::test_open_read_only_dir"),
    ),
    Package(
        "m2crypto", "0.51.0", "5428f6601086a8f5e41aa70248b3b983443e7badf263551c5104ba2ec0c9d955", "swig libssl-dev",
        "src/SWIG", "src/SWIG", ".", ("-m", "pytest", "-v", *ALONE, "tests"),
    ),
    Package(
        "libvirt-python", "12.8.0", "ab24a102ebf99b913ddc3459031aa71a48b0b1cdbb0f423b4ea278052791ac8a", "libvirt-dev pkg-config",
        ".", ".", "tests", ("-m", "pytest", "-v", *ALONE, "--ignore=test_api_coverage.py", "."),
        (("setup.py", "Py_LIMITED_API=0x03060000\"]", "Py_LIMITED_API=0x03090000\"]"),),
    ),
)  # fmt: skip


@dataclasses.dataclass
class Row:
    """What came of one package on one interpreter."""

    package: str
    python: str
    migrated: int = 0
    skipped: int = 0
    asked: int = 0
    failed: int = 0
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    after: dict[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def lost(self) -> list[str]:
        """Tests that passed before and do not after."""
        return sorted(n for n, how in self.before.items() if how in PASSED and self.after.get(n) not in PASSED)

    @property
    def fine(self) -> bool:
        return not (self.note or self.lost or self.asked or self.failed)


def run(words: Sequence[str | Path], *, ok: Sequence[int] = (0,), **options: object) -> str:
    done = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=TIMEOUT_S, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    if done.returncode not in ok:
        raise Failure(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stdout[-4000:]}")
    return str(done.stdout)


def fetch(package: Package) -> Path:
    sdist = BUILD / package.sdist
    if not sdist.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        words = ["download", "-q", "--no-deps", "--no-binary", package.name, "-d", BUILD]
        run([sys.executable, "-m", "pip", *words, f"{package.name}=={package.version}"])
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise Failure(f"{sdist}: SHA-256 is {digest}, not {package.sha256}; delete the file and try again")
    return sdist


def unpack(sdist: Path, target: Path) -> Path:
    """Returns the folder with the setup.py."""
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
    (folder,) = target.iterdir()
    return folder


def migrate(package: Package, folder: Path, row: Row) -> None:
    decisions = HERE / "decisions" / f"{package.name.lower()}.toml"
    words = ["-m", "pep788", "migrate", package.sources, "--apply", "--allow-dirty", "--format", "json"]
    words += ["--decisions", str(decisions), "--vendor", package.vendor]
    report = json.loads(run([sys.executable, *words], ok=(0, 1), cwd=folder))
    counts = report["counts"]
    row.migrated, row.skipped = counts["migrated"], counts["skipped"]
    row.asked, row.failed = counts["needs a decision"], counts["failed"]
    for name, old, new in package.by_hand:
        text = (folder / name).read_text()
        if old not in text:
            raise Failure(f"{name} of {package.name} has no {old!r}")
        (folder / name).write_text(text.replace(old, new))


def environment(python: str) -> tuple[str, Path]:
    """The version of an interpreter, and that of a virtual environment of it with what builds and tests need."""
    version = run([python, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]).strip()
    folder = BUILD / f"venv-{version}"
    if not (folder / "ready").exists():
        run([python, "-m", "venv", "--clear", folder])
        run([folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *TOOLS])
        (folder / "ready").touch()
    return version, folder / "bin" / "python"


def build(python: Path, folder: Path, site: Path) -> None:
    shutil.rmtree(site, ignore_errors=True)
    options = ["-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    run([python, "-m", "pip", "install", *options, "--target", site, "."], cwd=folder)


def test(package: Package, python: Path, folder: Path, site: Path) -> dict[str, str]:
    if not package.tests:
        return {}
    output = run(
        [python, *package.tests], ok=range(-64, 256), cwd=folder / package.folder,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    (site.parent / f"{site.name}.log").write_text(output)
    found = dict([*UNITTEST.findall(output), *PYTEST.findall(output)])
    if not found:
        raise Failure(f"{package.name}: no test was run:\n{output[-2000:]}")
    return found


def prove(package: Package, python: str) -> Row:
    version, interpreter = environment(python)
    row = Row(f"{package.name} {package.version}", version)
    base = BUILD / f"{package.name}-{version}"
    try:
        sdist = fetch(package)
        before, after = unpack(sdist, base / "before"), unpack(sdist, base / "after")
        migrate(package, after, row)
        build(interpreter, before, base / "site-before")
        build(interpreter, after, base / "site-after")
        row.before = test(package, interpreter, before, base / "site-before")
        row.after = test(package, interpreter, after, base / "site-after")
    except (Failure, subprocess.TimeoutExpired) as error:
        print(f"--- {package.name}: {error}\nIt needs (Debian): {package.needs}", flush=True)
        row.note = "not built or not run"
    for name in row.lost:
        print(f"--- {package.name}: {name} passed before, and after: {row.after.get(name, 'not run')}", flush=True)
    return row


def passed(results: dict[str, str]) -> str:
    return f"{sum(how in PASSED for how in results.values())} of {len(results)}" if results else "-"


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| package | Python | migrated | skipped | asked | failed | tests passed before | after |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        counts = [row.migrated, row.skipped, row.asked, row.failed]
        cells = [row.package, row.python, *counts, passed(row.before), row.note or passed(row.after)]
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="default: all")
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON", help="may be repeated")
    options = parser.parse_args()
    known = {package.name.lower(): package for package in PACKAGES}
    unknown = [name for name in options.packages if name.lower() not in known]
    if unknown:
        parser.error(f"{unknown[0]} is not in the corpus; there are {', '.join(p.name for p in PACKAGES)}")
    chosen = [known[name.lower()] for name in options.packages] or list(PACKAGES)
    rows = [prove(package, python) for python in options.python or [sys.executable] for package in chosen]
    print("\n".join(table(rows)))
    failed = sum(not row.fine for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
