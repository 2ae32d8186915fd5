"""Runs a tool of the tree as a user who may not read everything, whoever runs the tests."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from typing import Iterator, List, Sequence, Tuple

import pytest
import support

# All is imported, and one file is gone through, before root becomes nobody: the tree itself may be root's alone.
CHILD = """
import contextlib, io, json, os, sys, types
package = types.ModuleType("pep788_tools")
package.__path__ = [sys.argv[1]]
sys.modules["pep788_tools"] = package
tool = __import__("pep788_tools.%s.cli" % sys.argv[2], fromlist=["main"])

def run(arguments):
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = tool.main(arguments)
        except SystemExit as end:
            status = end.code
    out.flush()
    return status, out.buffer.getvalue().decode(), err.getvalue()

os.chdir(sys.argv[3])
for name in ("x.c", "x.pyx"):
    run([name])
if os.getuid() == 0:
    try:
        import pwd
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    except (KeyError, OSError) as error:
        sys.exit("cannot become nobody: %s" % error)
print(json.dumps([run(arguments) for arguments in json.loads(sys.argv[4])]))
"""
PAIR = """\
#include <Python.h>
static PyInterpreterView *view;
static void on_event(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyGILState_Release(state);
}
"""


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    """One that everybody may look into and write to, with a file for each parser."""
    if os.name != "posix":
        pytest.skip("files have no owner here")
    path = pathlib.Path(tempfile.mkdtemp())
    path.chmod(0o777)
    (path / "x.c").write_text("int PyGILState_STATE;\n")
    (path / "x.pyx").write_text("cdef void f() nogil:\n    pass\n")
    (path / "pep788-migrate.toml").write_text('view = "view"\n')
    try:
        yield path
    finally:
        for below, folders, _ in os.walk(path):
            for name in folders:
                os.chmod(os.path.join(below, name), 0o700)
        shutil.rmtree(path)


def run(tool: str, path: pathlib.Path, *commands: Sequence[str]) -> List[Tuple[int, str, str]]:
    """Of each command the status, stdout and stderr; skips the test where root cannot become anybody else."""
    source = support.REPO / "src" / "pep788"
    result = support.run_child(CHILD, args=[str(source), tool, str(path), json.dumps(commands)])
    if result.err.startswith("cannot become nobody"):
        pytest.skip(result.err.strip())
    found = [tuple(one) for one in json.loads(result.check().out)]
    assert not any("Traceback" in err for _, _, err in found), found
    return found
