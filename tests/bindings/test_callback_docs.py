"""The examples of docs/callback.md and of the README run as they stand there, and end as they say."""

from __future__ import annotations

import pathlib
import re
import sys

import pytest
import support
from calling import needs_ffi, package

pytestmark = needs_ffi
POOL = support.REPO / "examples" / "callback" / "pool.c"
# What the fragment in the README leaves out.
README_BEFORE = """
import ctypes, sys, threading
import pep788
called = threading.Event()
library = ctypes.CDLL(sys.argv[1])
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def on_event(number):
    called.set()
    return number
"""


def example(page: str, label: str) -> str:
    text = (support.REPO / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- test: {label} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} has no block marked {label}"
    return found.group(1)


def run(code: str, folder: pathlib.Path) -> support.Result:
    source = folder / "example.py"
    source.write_text(code, encoding="utf-8")
    library = support.build_library("pool", [POOL])
    return support.run_child([sys.executable, str(source), str(library)], path=[package()])


@pytest.mark.parametrize("label", ["ctypes", "cffi"])
def test_docs_example_loses_no_thread(label: str, tmp_path):
    if label == "cffi":
        pytest.importorskip("cffi", reason="cffi is in the extra `test`, but is not installed here")
    result = run(example("docs/callback.md", label), tmp_path).check()
    assert (result.out, result.err) == ("lost 0\n", "")


def test_docs_example_needs_its_one_line(tmp_path):
    """RED: the same program with the plain callback."""
    code = example("docs/callback.md", "ctypes")
    line = "safe = pep788.callback(on_event, on_closed=-1)"
    assert line in code
    result = run(code.replace(line, "safe = on_event"), tmp_path)
    assert result.returncode != 0 or result.out != "lost 0\n"


def test_docs_example_of_the_README(tmp_path):
    result = run(README_BEFORE + example("README.md", "ctypes") + "called.wait()\n", tmp_path).check()
    assert (result.out, result.err) == ("lost 0\n", "")


def test_docs_signature_is_the_real_one():
    code = "import inspect, pep788\nprint(*inspect.signature(pep788.callback).parameters)"
    parameters = support.run_child(code, path=[package()]).check().out.split()
    text = (support.REPO / "docs" / "callback.md").read_text(encoding="utf-8")
    shown = re.search(r"^pep788\.callback\((.*)\)$", text, re.MULTILINE)
    assert shown and re.findall(r"\w+(?=[,=]|$)", shown.group(1).replace("=VALUE", "=").replace("=None", "=").replace("=False", "=")) == parameters
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == parameters
