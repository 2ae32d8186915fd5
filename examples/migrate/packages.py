"""What `pep788 check` finds in eight real packages, and what `pep788 migrate` makes of them, built and tested.

    make corpus                                            all packages, on the Python that make uses
    make corpus ARGS="--python 3.9 --python 3.14"          on interpreters of the matrix (tools/interpreters.py)
    python packages.py --python /usr/bin/python3 pysqlite3 one package on another interpreter

1. `pep788 check` is compared with the labels in tools/field.json (tools/field.py).
2. `pep788 migrate` is compared site by site with those in sites.json, once without the author's decisions and once with
   those in decisions/, one file a package: the outcome, and where the view is taken from.
3. Each package is built before and after, and its own tests are run on both.

The sdists come from PyPI and are checked against their SHA-256.  Ends with three tables, and with "N passed, N failed":
it fails if something else is found than what is labelled, if a package does not build, if a test that passed before
does not pass after, or if a site is left undecided.  A package that does not support a version is left out there.  In
the Debian chroot what a package needs is installed by apt.

Hours saved are an estimate: nobody was timed.  They are (places - decisions) * --minutes-a-site: a place is a site that
has an edit of its own, or all sites that a macro changes together; a decision is one answer of the author's.
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tools"))

import field  # noqa: E402
import interpreters  # noqa: E402
from sid import APT  # noqa: E402

from pep788.migrate import decisions  # noqa: E402

BUILD = HERE.parent.parent / "build" / "corpus"
LABELS = HERE / "sites.json"
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
    `tools` is what pip installs to build and to test it, `oldest` the first Python that it supports, `generated` what
    the sdist has that is to be generated again, `inside` what is needed in the chroot beside `needs`.
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
        "src", "src", "src", (str(HERE / "run_pysqlite3_tests.py"),),
        inside="libpython3.14-testsuite",
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
    Package(
        "fuse-python", "1.0.9", "9ed59577c36ab218d700aa2839f021f12c252b357186057572b98e19bc2a8589", "libfuse-dev pkg-config",
        "fuseparts", "fuseparts",
    ),
    Package(
        "python-rtmidi", "1.5.8", "7f9ade68b068ae09000ecb562ae9521da3a234361ad5449e83fc734544d004fa",
        "libasound2-dev libjack-jackd2-dev pkg-config", "src", "src", "tests", ("-m", "pytest", "-v", *ALONE, "."),
        tools=("meson-python", "meson", "ninja"), generated=("src/_rtmidi.cpp",),
    ),
    Package(
        "pyopencl", "2026.1.4", "6cb9544a004609061e86873fe36500da6c2101042e9c7b9c3b804a29a12b98bf",
        "ocl-icd-opencl-dev pocl-opencl-icd", "src", "src", "test", ("-m", "pytest", "-v", *ALONE, "test_wrapper.py"),
        tools=("scikit-build-core>=0.9.3", "cmake", "ninja", "nanobind>=3.0", "numpy", "pytools", "platformdirs", "mako"),
        oldest=(3, 10),
    ),
)  # fmt: skip


@dataclasses.dataclass
class Migration:
    """What became of one package. `asked` and the like are with the author's decisions, `first` without."""

    package: str
    first: int = 0
    decisions: int = 0
    sites: int = 0
    migrated: int = 0
    skipped: int = 0
    asked: int = 0
    failed: int = 0
    places: int = 0
    lines: int = 0
    surprises: list[str] = dataclasses.field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not (self.surprises or self.asked or self.failed)

    def hours(self, minutes: float) -> float:
        return max(0, self.places - self.decisions) * minutes / 60


@dataclasses.dataclass
class Build:
    """What came of one package on one interpreter."""

    package: str
    python: str
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    after: dict[str, str] = dataclasses.field(default_factory=dict)
    error: bool = False

    @property
    def lost(self) -> list[str]:
        """Tests that passed before and do not after."""
        return sorted(n for n, how in self.before.items() if how in PASSED and self.after.get(n) not in PASSED)

    @property
    def fine(self) -> bool:
        return not (self.error or self.lost)

    @property
    def text(self) -> str:
        if self.error:
            return "not built or not run"
        if not self.before:
            return "built"
        before, after = (sum(how in PASSED for how in results.values()) for results in (self.before, self.after))
        return f"{before} and {after} of {len(self.before)}"


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


def run_migrate(package: Package, folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pep788", "migrate", package.sources, "--vendor", package.vendor]
    report: dict[str, Any] = json.loads(run([*command, "--format", "json", *words], ok=(0, 1), cwd=folder))
    return report


def migrate(package: Package, target: Path) -> Migration:
    """Leaves the migrated package in `target`."""
    made = Migration(f"{package.name} {package.version}")
    folder = unpack(fetch(package), target)
    answers = HERE / "decisions" / f"{package.name.lower()}.toml"
    first = run_migrate(package, folder)
    report = run_migrate(package, folder, "--decisions", str(answers), "--apply", "--allow-dirty")
    made.surprises = list(compare(json.loads(LABELS.read_text())[field.package_of(fetch(package))], first, report))
    known = decisions.load(answers, ())
    made.decisions = len(known.callbacks) + len(known.defaults) + bool(known.view) + (not known.user_data)
    made.first, counts = first["counts"]["needs a decision"], report["counts"]
    made.sites, made.migrated, made.skipped = len(report["sites"]), counts["migrated"], counts["skipped"]
    made.asked, made.failed = counts["needs a decision"], counts["failed"]
    migrated = [site for site in report["sites"] if site["outcome"] == "migrated"]
    made.places = sum(bool(site["edits"]) for site in migrated) + any(not site["edits"] for site in migrated)
    changed = (line for line in report["diff"].splitlines() if not line.startswith(("+++ ", "--- ")))
    made.lines = sum(line.startswith(("+", "-")) for line in changed)
    for name, old, new in package.by_hand:
        text = (folder / name).read_text()
        if old not in text:
            raise Failure(f"{name} of {package.name} has no {old!r}")
        (folder / name).write_text(text.replace(old, new))
    return made


def compare(labels: dict[str, Any], first: dict[str, Any], report: dict[str, Any]) -> Iterator[str]:
    """Where the tool and the labels differ, site by site."""
    views = {view["expression"]: view["path"] for view in report["views"]}
    if views != labels["views"]:
        yield f"the views are {views}, labelled {labels['views']}"
    wanted = {(site["path"], site["line"]): site for site in labels["sites"]}
    found = {(site["path"], site["line"]): site for site in report["sites"]}
    outcomes = {(site["path"], site["line"]): site["outcome"] for site in first["sites"]}
    for place in sorted(wanted.keys() | found.keys() | outcomes.keys()):
        where = ":".join(map(str, place))
        label, site = wanted.get(place), found.get(place)
        if label is None or site is None:
            yield f"{where}: {'not labelled' if label is None else 'not reported'}"
            continue
        said = {key: site[key] for key in ("function", "outcome", "view")} | {"first": outcomes.get(place, "nothing")}
        for key, value in said.items():
            if value != label.get(key, ""):
                yield f"{where}: {key} is {value!r}, labelled {label.get(key, '')!r}: {site['reason']}"


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


def prove(package: Package, python: Python, version: str, migrated: Path) -> Build:
    made = Build(package.name, version)
    base = BUILD / f"{package.name}-{version}"
    try:
        interpreter = environment(python, version, package)
        before, after = unpack(fetch(package), base / "before"), base / "after"
        shutil.rmtree(after, ignore_errors=True)
        shutil.copytree(next(migrated.iterdir()), after)
        for name in package.generated:
            (before / name).unlink()
            (after / name).unlink()
        build(interpreter, before, base / "site-before")
        build(interpreter, after, base / "site-after")
        made.before = test(package, interpreter, before, base / "site-before")
        made.after = test(package, interpreter, after, base / "site-after")
    except (Failure, subprocess.TimeoutExpired) as error:
        print(f"--- {package.name}: {error}\nIt needs (Debian): {package.needs}", flush=True)
        made.error = True
    for name in made.lost:
        print(f"--- {package.name}: {name} passed before, and after: {made.after.get(name, 'not run')}", flush=True)
    print(f"... {made.package} on {version}: {made.text}", flush=True)
    return made


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, cells))} |" for cells in rows)])


def show_migrations(found: Sequence[Migration], minutes: float) -> None:
    head = "| package | sites | asked without decisions | decisions | migrated | skipped | asked | failed | places |"
    print(table(f"{head} lines changed | hours saved (estimate) |", (
        (m.package, m.sites, m.first, m.decisions, m.migrated, m.skipped, m.asked, m.failed, m.places, m.lines,
         f"{m.hours(minutes):.1f}")
        for m in found
    )))  # fmt: skip
    hours = sum(m.hours(minutes) for m in found)
    print(f"hours saved: an estimate, at {minutes:g} minutes a site by hand; in all {hours:.1f}", flush=True)


def show_builds(builds: Sequence[Build]) -> None:
    versions = list(dict.fromkeys(b.python for b in builds))
    cells = {(b.package, b.python): b.text for b in builds}
    names = list(dict.fromkeys(b.package for b in builds))
    print(table(f"| tests passed before and after | {' | '.join(versions)} |", (
        (name, *(cells.get((name, version), "-") for version in versions)) for name in names
    )))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="default: all")
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON", help="may be repeated")
    parser.add_argument(
        "--minutes-a-site", type=float, default=10, metavar="N",
        help="what a site would take by hand, or a decision: an assumption, for the hours saved (default: 10)",
    )  # fmt: skip
    options = parser.parse_args()
    known = {package.name.lower(): package for package in PACKAGES}
    unknown = [name for name in options.packages if name.lower() not in known]
    if unknown:
        parser.error(f"{unknown[0]} is not in the corpus; there are {', '.join(p.name for p in PACKAGES)}")
    chosen = [known[name.lower()] for name in options.packages] or list(PACKAGES)
    wrong = field.show(list(map(fetch, chosen)))
    migrations = [migrate(package, BUILD / f"{package.name}-migrated") for package in chosen]
    for migration in migrations:
        for surprise in migration.surprises:
            print(f"--- {migration.package}: {surprise}")
    print()
    show_migrations(migrations, options.minutes_a_site)
    pythons = list(map(find, options.python or [sys.executable]))
    if any(python.inside for python in pythons):
        install_needs(chosen)
    builds = []
    for python in pythons:
        version = version_of(python)
        for package in chosen:
            if tuple(map(int, version.split(".")[:2])) >= package.oldest:
                builds.append(prove(package, python, version, BUILD / f"{package.name}-migrated"))
    print()
    show_builds(builds)
    failed = wrong + sum(not made.fine for made in [*migrations, *builds])
    print(f"{len(chosen) + len(migrations) + len(builds) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
