"""docs/migrate.md: its help text and its example are real, its decisions can be read."""

from __future__ import annotations

import re
import sys

import pytest
import support
from pep788_tools.migrate import cli, decisions

PAGE = (support.REPO / "docs" / "migrate.md").read_text(encoding="utf-8")


def block(label: str) -> str:
    found = re.search(rf"<!-- test: {label} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/migrate.md has no block marked {label}"
    return found.group(1)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="argparse of 3.9 says 'optional arguments'")
def test_help_in_the_docs_is_the_real_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.build_parser().format_help() in PAGE


def test_example(migrator):
    report = migrator.report({"x.c": block("before")}, values=("on_event=-1",))
    assert [data.decode() for data in report.after.values()] == [block("after")]


def test_macro(migrator):
    source = """
#include <Python.h>

#define PYLOCK() \\
  PyGILState_STATE gstate; \\
  gstate = PyGILState_Ensure();
#define PYUNLOCK() PyGILState_Release(gstate);

static int f(PyObject *o) { PYLOCK(); Py_DECREF(o); PYUNLOCK(); return 0; }
static void g(PyObject *o) { PYLOCK(); Py_DECREF(o); PYUNLOCK(); }

PyMODINIT_FUNC PyInit_fuse(void)
{
    return PyModule_Create(&definition);
}
"""
    (after,) = migrator.report({"x.c": source}, values=("f=-1",)).after.values()
    assert block("macro") in after.decode()
    assert "PYLOCK(-1); Py_DECREF(o);" in after.decode()


def test_decisions(migrator, tmp_path):
    path = tmp_path / "decisions.toml"
    path.write_text(block("decisions"))
    known = decisions.load(path, ())
    assert set(known.callbacks) == {"on_event", "Reader::read", "io.c:callback", "on_query", "on_close", "on_data", "compare"}
    assert known.defaults == {"void*": "NULL"}


def test_decisions_of_the_corpus_can_be_read(migrator):
    for path in (support.REPO / "examples" / "migrate" / "decisions").iterdir():
        known = decisions.load(path, ())
        assert known.callbacks or known.defaults or "Nothing is to be decided" in path.read_text()
