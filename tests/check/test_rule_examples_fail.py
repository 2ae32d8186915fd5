"""What the pages call wrong really fails, and what they call right does not: built, and run in children."""

from __future__ import annotations

import re

import pytest
import support

PAGES = support.REPO / "docs" / "rules"
MODULE = """
#include "pep788.h"
#include <pthread.h>
PyInterpreterView *view;
%(code)s
%(more)s
static PyMethodDef methods[] = {
    {"go", go, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "%(name)s", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_%(name)s(void)
{
    if (Pep788_Init() < 0 || (view = PyInterpreterView_FromCurrent()) == NULL)
        return NULL;
    return PyModule_Create(&definition);
}
"""
# Py_AtExit functions run when the interpreter is gone: as late as a callback can be.
TOO_LATE = """
static void *kept;
static void late(void)
{
    on_event(%s);
}
static PyObject *go(PyObject *self, PyObject *callable)
{
    Py_INCREF(callable);
    kept = callable;
    if (Py_AtExit(late) < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}
"""
CALL = "static PyObject *go(PyObject *self, PyObject *data) { %s }\n"
GIVE_UP = {"PEP788_REPORT_AFTER": "0.1", "PEP788_GIVE_UP_AFTER": "0.3"}


def run(rule: str, kind: str, more: str, timeout: float) -> support.Result:
    page = (PAGES / f"{rule}.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {kind}\n\n```c\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    name = f"{rule}_{kind}".lower()
    source = support.BUILD / "check" / f"{name}.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(MODULE % {"code": found.group(1), "more": more, "name": name})
    folder = support.build_extension(name, [source])
    code = f"import {name}\n{name}.go(print)\nprint('end', flush=True)"
    return support.run_child(code, path=[folder], timeout=timeout, env=GIVE_UP)


def went_wrong(result: support.Result) -> bool:
    return result.hung or result.signal is not None


@pytest.mark.parametrize("rule, data", [("P101", "kept"), ("P203", "")])
def test_too_late(rule, data):
    assert run(rule, "Fixed", TOO_LATE % data, 60).check().out == "end\n"
    late = run(rule, "Found", TOO_LATE % data, 3)
    assert late.out == "end\n" and went_wrong(late), late.describe()


def test_wait_attached():
    call = CALL % "return run(self, data);"
    assert run("P110", "Fixed", call, 60).check().out == "end\n"
    deadlock = run("P110", "Found", call, 3)
    assert deadlock.hung and deadlock.out == "", deadlock.describe()


def test_guard_left_open():
    call = "int work(void) { return -1; }\n" + CALL % "return PyLong_FromLong(run());"
    assert run("P201", "Fixed", call, 60).check().err == ""
    held = run("P201", "Found", call, 3)
    assert held.out == "end\n"
    assert held.hung if support.NATIVE else "1 open interpreter guard" in held.err, held.describe()
