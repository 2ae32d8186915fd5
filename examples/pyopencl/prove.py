"""pyopencl 2026.1.4 as published and with a port to pep788/nanobind.hpp: its own tests, and many exits.

    python3 tools/interpreters.py run 3.12 examples/pyopencl/prove.py --runs 200

Builds both from the sdist of PyPI (minutes), runs pyopencl's test_wrapper, and lets a program end while event callbacks
are in flight, under `pep788 stress` with its amplifier.  Exit status 0 only if the ported one passes its tests and no
run of it failed.  Needs pep788 in this interpreter, a C++ compiler, and OpenCL on the processor (Debian:
`apt install ocl-icd-opencl-dev pocl-opencl-icd`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile

import pep788
from pep788 import stress

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("PEP788_BUILD_DIR") or HERE.parent.parent / "build") / "pyopencl"
NAME, SHA256 = "pyopencl-2026.1.4", "6cb9544a004609061e86873fe36500da6c2101042e9c7b9c3b804a29a12b98bf"
PATCH = HERE / f"{NAME}-pep788.patch"
PROGRAM = HERE.parent / "shield" / "cases" / "pyopencl_events.py"
NEEDS = ["scikit-build-core[pyproject]", "nanobind>=3", "cmake", "ninja", "numpy", "pytest", "pytools", "platformdirs"]


class SetupError(Exception):
    """A step that could not be done; the message says which."""


def run(words: list[str | pathlib.Path], **options: object) -> None:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SetupError(f"{' '.join(map(str, words))}\n{done.stdout[-3000:]}")


def sdist() -> pathlib.Path:
    """The published sources, checked."""
    path = BUILD / f"{NAME}.tar.gz"
    if not path.exists():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pyopencl", "--dest", BUILD]
        run([*pip, NAME.replace("-", "==")])
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise SetupError(f"{path} is not what it was: delete it and try again")
    return path


def build(python: pathlib.Path, variant: str) -> pathlib.Path:
    """The folder with the package, for PYTHONPATH."""
    target = BUILD / f"{variant}-{sys.implementation.cache_tag}"
    if target.is_dir():
        return target
    source = BUILD / f"{variant}-source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(sdist()) as archive:
        archive.extractall(source, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    if variant == "ported":
        run(["patch", "-p1", "-i", PATCH], cwd=source / NAME)
    scratch = target.with_suffix(".new")
    shutil.rmtree(scratch, ignore_errors=True)
    env = {**os.environ, "CXXFLAGS": f"-I{pep788.get_include()}"}
    pip = [python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", scratch]
    run([*pip, source / NAME], env=env)
    scratch.rename(target)
    return target


def test_wrapper(python: pathlib.Path, package: pathlib.Path) -> str:
    """The last line of pytest on pyopencl's own tests."""
    tests = BUILD / f"{package.name.rsplit('-', 2)[0]}-source" / NAME / "test"
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_wrapper.py"]
    env = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(words, cwd=tests, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="processes each (default: 20)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be above 0")
    BUILD.mkdir(parents=True, exist_ok=True)
    venv = BUILD / f"venv-{sys.implementation.cache_tag}"
    python = venv / "bin" / "python"
    try:
        if not python.exists():
            run([sys.executable, "-m", "venv", venv])
        run([python, "-m", "pip", "install", "-q", *NEEDS])
        packages = {variant: build(python, variant) for variant in ("published", "ported")}
    except SetupError as problem:
        print(f"prove.py: {problem}", file=sys.stderr)
        return 2
    print(f"CPython {platform.python_version()}, {NAME} on PoCL, {runs} exits each, amplifier on")
    good = True
    for variant, package in packages.items():
        tests = test_wrapper(python, package)
        os.environ["PYTHONPATH"] = str(package)
        report = stress.run([str(python), str(PROGRAM)], runs=runs)
        (cell,) = report.cells
        counts = ", ".join(f"{cell.count(verdict)} {verdict}" for verdict in stress.VERDICTS if cell.count(verdict))
        print(f"{variant:10} exits: {counts}; test_wrapper: {tests}", flush=True)
        if variant == "ported":
            good = not report.failed and re.search(r"\b(failed|errors?)\b", tests) is None
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
