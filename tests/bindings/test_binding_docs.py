"""The modules of docs/bindings.md: they compile, call back from native threads, and end well."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
from typing import Sequence

import pytest
import support

from test_bindings import backend, system_headers, unpacked

HERE = pathlib.Path(__file__).resolve().parent
PAGE = support.REPO / "docs" / "bindings.md"

USE = """
import atexit, threading
import example
called = threading.Semaphore(0)
def handler(number):
    called.release()
    return number
example.on_event(handler)
for _ in range(100):
    called.acquire()
entered, ending = threading.Event(), threading.Event()
atexit.register(ending.set)     # native guards taken without pause would never let it end (F9)
def wait():
    try:
        while not ending.is_set():
            entered.set()
            example.wait()
    except RuntimeError:        # PythonFinalizationError: Cython's has a way to say that it is too late
        pass
threading.Thread(target=wait, daemon=True).start()
entered.wait()
print("end", flush=True)
"""


def sample(label: str) -> str:
    found = re.search(rf"<!-- test: {label} -->\n```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{PAGE} has no block marked {label}"
    return found.group(1)


def source(name: str, text: str) -> pathlib.Path:
    path = support.BUILD / "docs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def build(sources: Sequence[pathlib.Path], language: str, *flags: str) -> pathlib.Path:
    extra = ["-O0", "-g0", "-fvisibility=hidden", "-I", str(HERE), *flags]
    std = "c++17" if language == "c++" else None
    return support.build_extension("example", sources, language=language, std=std, extra=extra)


def calls_back_and_ends(folder: pathlib.Path) -> None:
    for _ in range(support.tries(3)):
        result = support.run_child(USE, path=[folder]).check()
        assert (result.out, result.err) == ("end\njoined 4\n", ""), result.describe()


@pytest.mark.parametrize("name", ["pybind11", "nanobind"])
def test_cpp_example(name: str) -> None:
    release = f"{name}-2" if sys.version_info < (3, 10) else f"{name}-3"
    folder = unpacked(release)
    text = sample(name)
    if name == "pybind11":
        text += sample("pybind11 override")  # compiled here; test_bindings.py runs one like it
    calls_back_and_ends(build([source(f"{name}.cpp", text), *backend(folder)], "c++", *system_headers(folder)))


@pytest.mark.parametrize("language", ["c", "c++"])
def test_cython_example(language: str) -> None:
    pytest.importorskip("Cython")
    pyx = source("example.pyx", sample("Cython"))
    # Where `import pep788` finds the package of the tree, whether it is installed or not.
    place = support.BUILD / "docs" / "path" / "pep788"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(support.REPO / "src" / "pep788" / "__init__.pxd", place)
    output = pyx.with_suffix(".cpp" if language == "c++" else ".c")
    words = [sys.executable, "-m", "cython", "-3", "-Wextra", "-I", str(place.parent), str(pyx), "-o", str(output)]
    words += ["--cplus"] if language == "c++" else []
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 and "warning" not in done.stdout, done.stdout
    calls_back_and_ends(build([output], language, "-Wno-unused-function"))
