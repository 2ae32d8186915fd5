"""Migrate real packages with `pep788 migrate`, build them before and after, and run their own tests on both.

    make migrated                                        all packages, on the Python that make uses
    make migrated ARGS="--python 3.9 --python 3.14"      on interpreters of the matrix (tools/interpreters.py)
    python corpus.py --python /usr/bin/python3 pysqlite3 one package on another interpreter

The sdists come from PyPI and are checked against their SHA-256; what their authors would have to decide is in
decisions/, one file a package.  Ends with a table, and with "N passed, N failed": a package has failed if it does not
build, if a test that passed before does not pass after, or if a site is left undecided.  A package that does not
support a version is left out there.  In the Debian chroot what a package needs is installed by apt.
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
sys.path.insert(0, str(HERE.parent.parent / "tools"))

import interpreters  # noqa: E402
from sid import APT  # noqa: E402

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
    `folder` of the unpacked sdist; `by_hand` is what its author has to change beside (file, old text, new text);
    `places` is how many places of the sources attach, by reading them: the tool has to report as many;
    `tools` is what pip installs to build and to test it, `oldest` the first Python that it supports, `generated` what
    the sdist has that is to be generated again, `inside` what is needed in the chroot beside `needs`.
    """

    name: str
    version: str
    sha256: str
    needs: str
    sources: str
    vendor: str
    places: int
    folder: str = "."
    tests: tuple[str, ...] = ()
    by_hand: tuple[tuple[str, str, str], ...] = ()
    tools: tuple[str, ...] = ()
    oldest: tuple[int, int] = (3, 9)
    generated: tuple[str, ...] = ()
    inside: str = ""

    @property
    def sdist(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


PACKAGES = (
    Package(
        "pysqlite3", "0.6.1", "dd7d2b7f3a29aebdbf569c359658b091d3345b5691d9ea765a5c3febe8872bf9", "libsqlite3-dev",
        "src", "src", 12, "src", (str(HERE / "run_pysqlite3_tests.py"),),
        inside="libpython3.14-testsuite",
    ),
    Package(
        "PyAudio", "0.2.14", "78dfff3879b4994d1f4fc6485646a57755c6ee3c19647a491f790a0895bd2f87", "portaudio19-dev",
        "src/pyaudio", "src/pyaudio", 1,
    ),
    Package(
        "plyvel", "1.5.1", "3caf6009e4fc24fbf8712d3f5ef3da7e56495c26a488df2161218fc34e46019c", "libleveldb-dev",
        "plyvel", "plyvel", 1, "test",
        ("-m", "pytest", "-v", *ALONE, "test_plyvel.py", "--deselect=test_plyvel.py::test_open_read_only_dir"),
    ),
    Package(
        "m2crypto", "0.51.0", "5428f6601086a8f5e41aa70248b3b983443e7badf263551c5104ba2ec0c9d955", "swig libssl-dev",
        "src/SWIG", "src/SWIG", 6, ".", ("-m", "pytest", "-v", *ALONE, "tests"),
    ),
    Package(
        "libvirt-python", "12.8.0", "ab24a102ebf99b913ddc3459031aa71a48b0b1cdbb0f423b4ea278052791ac8a", "libvirt-dev pkg-config",
        ".", ".", 57, "tests", ("-m", "pytest", "-v", *ALONE, "--ignore=test_api_coverage.py", "."),
        (("setup.py", "Py_LIMITED_API=0x03060000\"]", "Py_LIMITED_API=0x03090000\"]"),),
    ),
    Package(
        "fuse-python", "1.0.9", "9ed59577c36ab218d700aa2839f021f12c252b357186057572b98e19bc2a8589", "libfuse-dev pkg-config",
        "fuseparts", "fuseparts", 71,
    ),
    Package(
        "python-rtmidi", "1.5.8", "7f9ade68b068ae09000ecb562ae9521da3a234361ad5449e83fc734544d004fa",
        "libasound2-dev libjack-jackd2-dev pkg-config", "src", "src", 2, "tests", ("-m", "pytest", "-v", *ALONE, "."),
        tools=("meson-python", "meson", "ninja"), generated=("src/_rtmidi.cpp",),
    ),
    Package(
        "pyopencl", "2026.1.4", "6cb9544a004609061e86873fe36500da6c2101042e9c7b9c3b804a29a12b98bf",
        "ocl-icd-opencl-dev pocl-opencl-icd", "src", "src", 3, "test", ("-m", "pytest", "-v", *ALONE, "test_wrapper.py"),
        tools=("scikit-build-core>=0.9.3", "cmake", "ninja", "nanobind>=3.0", "numpy", "pytools", "platformdirs", "mako"),
        oldest=(3, 10),
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
    lines: int = 0
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


@dataclasses.dataclass(frozen=True)
class Python:
    """An interpreter, which may be one in the chroot."""

    path: str
    inside: bool = False

    def run(self, words: Sequence[str | Path], cwd: Path = BUILD, **options: object) -> str:
        """What it prints; `env` adds to its environment."""
        env = {**(interpreters.chroot().env if self.inside else os.environ), **options.pop("env", {})}  # type: ignore[dict-item]
        prefix = interpreters.chroot().prefix(cwd) if self.inside else []
        return run([*prefix, self.path, *words], cwd=cwd, env=env, **options)


def run(words: Sequence[str | Path], *, ok: Sequence[int] = (0,), **options: object) -> str:
    done = subprocess.run(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=TIMEOUT_S, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    if done.returncode not in ok:
        raise Failure(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stdout[-4000:]}")
    return str(done.stdout)


def find(name: str) -> Python:
    """A column of the matrix, or a program."""
    if name not in interpreters.BY_NAME:
        return Python(name)
    found = interpreters.find_or_make(interpreters.BY_NAME[name])
    return Python(found.command[-1], inside=bool(found.prefix))


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
    if len(report["sites"]) != package.places:
        raise Failure(f"{package.name}: {len(report['sites'])} sites are reported, and there are {package.places}")
    row.lines = sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in report["diff"].splitlines() if line)
    for name, old, new in package.by_hand:
        text = (folder / name).read_text()
        if old not in text:
            raise Failure(f"{name} of {package.name} has no {old!r}")
        (folder / name).write_text(text.replace(old, new))


def version_of(python: Python) -> str:
    BUILD.mkdir(parents=True, exist_ok=True)
    return python.run(["-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]).strip()


def environment(python: Python, version: str, package: Package) -> Python:
    """A virtual environment with what builds and tests need."""
    folder = BUILD / f"venv-{version}"
    if not (folder / "ready").exists():
        python.run(["-m", "venv", "--clear", folder])
        (folder / "ready").touch()
    inside = Python(str(folder / "bin" / "python"), python.inside)
    tools = (*TOOLS, *package.tools)
    if not set(tools).issubset((folder / "ready").read_text().split()):
        inside.run(["-m", "pip", "install", "-q", "--disable-pip-version-check", *tools])
        with (folder / "ready").open("a") as file:
            file.write(" ".join(tools) + "\n")
    return inside


def build(python: Python, folder: Path, site: Path) -> None:
    shutil.rmtree(site, ignore_errors=True)
    options = ["-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    bin_folder = Path(python.path).parent
    path = f"{bin_folder}:{interpreters.chroot().env['PATH'] if python.inside else os.environ['PATH']}"
    python.run(["-m", "pip", "install", *options, "--target", site, "."], cwd=folder, env={"PATH": path})


def test(package: Package, python: Python, folder: Path, site: Path) -> dict[str, str]:
    if not package.tests:
        return {}
    output = python.run(
        package.tests, ok=range(-64, 256), cwd=folder / package.folder,
        env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    (site.parent / f"{site.name}.log").write_text(output)
    found = dict([*UNITTEST.findall(output), *PYTEST.findall(output)])
    if not found:
        raise Failure(f"{package.name}: no test was run:\n{output[-2000:]}")
    return found


def install_needs(packages: Sequence[Package]) -> None:
    """In the chroot, which has only what this repository needs."""
    words = sorted({word for package in packages for word in f"{package.needs} {package.inside}".split()})
    prefix = [*interpreters.chroot().prefix(Path("/")), *APT]
    run([*prefix, "update"], env=interpreters.chroot().env)
    run([*prefix, "install", "--yes", "--no-install-recommends", *words], env=interpreters.chroot().env)


def prove(package: Package, python: Python) -> Row | None:
    version = version_of(python)
    if tuple(map(int, version.split(".")[:2])) < package.oldest:
        return None
    row = Row(f"{package.name} {package.version}", version)
    base = BUILD / f"{package.name}-{version}"
    try:
        interpreter = environment(python, version, package)
        sdist = fetch(package)
        before, after = unpack(sdist, base / "before"), unpack(sdist, base / "after")
        for name in package.generated:
            (before / name).unlink()
            (after / name).unlink()
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
    print(f"... {row.package} on {version}", flush=True)
    return row


def passed(results: dict[str, str]) -> str:
    return f"{sum(how in PASSED for how in results.values())} of {len(results)}" if results else "-"


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| package | Python | migrated | skipped | asked | failed | lines changed | tests passed before | after |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        counts = [row.migrated, row.skipped, row.asked, row.failed, row.lines]
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
    pythons = list(map(find, options.python or [sys.executable]))
    if any(python.inside for python in pythons):
        install_needs(chosen)
    found = [prove(package, python) for python in pythons for package in chosen]
    rows = [row for row in found if row is not None]
    print("\n".join(table(rows)))
    failed = sum(not row.fine for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
