"""`pep788 migrate` as a command: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from pep788_tools.migrate import cli

SOURCE = """\
#include <Python.h>

static int on_event(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    int result = PyObject_IsTrue((PyObject *)data);
    PyGILState_Release(state);
    return result;
}

PyMODINIT_FUNC PyInit_x(void)
{
    return PyModule_Create(&definition);
}
"""
ANSWER = ["--failure-value", "on_event=0"]


@pytest.fixture
def run(capfd, tmp_path, monkeypatch, migrator):
    """Run the command in this process, in a folder with x.c; returns (status, stdout, stderr)."""
    migrator.write({"x.c": SOURCE})
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        return status, out, err

    return call


def git(*words: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, *words], check=True, stdout=subprocess.PIPE)


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def test_prints_a_diff_and_writes_nothing(run, tmp_path):
    status, out, err = run("x.c", *ANSWER)
    assert status == 0
    assert out.startswith("--- a/x.c\n+++ b/x.c\n@@ ") and "+        return 0;\n" in out
    assert err.splitlines()[0] == "x.c:5: on_event: migrated"
    assert err.splitlines()[-1] == ("1 site: 1 migrated, 0 skipped, 0 needs a decision, 0 failed; 1 file to be changed (--apply writes)")
    assert (tmp_path / "x.c").read_text() == SOURCE


def test_a_question_is_exit_status_1(run):
    status, out, err = run("x.c")
    assert (status, out) == (1, "")
    assert "    answer: --failure-value 'on_event=EXPR'\n" in err


def test_json(run):
    status, out, err = run("x.c", *ANSWER, "--format", "json")
    report = json.loads(out)
    assert (status, err, report["format"], report["written"]) == (0, "", 1, False)
    (site,) = report["sites"]
    assert (site["path"], site["line"], site["function"], site["outcome"]) == ("x.c", 5, "on_event", "migrated")
    assert [view["expression"] for view in report["views"]] == [site["view"]] == ["x_main_view"]
    assert report["changed"] == ["x.c"] and report["diff"].startswith("--- a/x.c\n")
    assert len(report["set_up"]["x.c"]) == 2


def test_decisions_file_of_this_folder_is_read(run, tmp_path):
    (tmp_path / "pep788-migrate.toml").write_text('[callbacks]\non_event = "7"\n')
    assert "return 7;" in run("x.c")[1]
    (tmp_path / "other.toml").write_text('[callbacks]\non_event = "8"\n')
    assert "return 8;" in run("x.c", "--decisions", "other.toml")[1]


@needs_git
def test_apply_writes_into_a_clean_tree_only(run, tmp_path):
    status, out, err = run("x.c", *ANSWER, "--apply")
    assert status == 2 and "is in no git tree" in err
    git("init", "-q")
    status, out, err = run("x.c", *ANSWER, "--apply")
    assert status == 2 and "has changes (x.c)" in err
    assert (tmp_path / "x.c").read_text() == SOURCE
    git("add", "x.c")
    git("commit", "-q", "-m", "x")
    assert "note: --apply copies pep788.h to third_party, too\n" in run("x.c", *ANSWER, "--vendor", "third_party")[2]
    (tmp_path / "x.c").chmod(0o640)
    status, out, err = run("x.c", *ANSWER, "--apply", "--vendor", "third_party")
    assert (status, out) == (0, "") and err.splitlines()[-1].endswith("; 1 file written")
    text = (tmp_path / "x.c").read_text()
    assert '#include "third_party/pep788.h"' in text and "PyThreadState_Release(state)" in text
    assert (tmp_path / "third_party" / "pep788.h").is_file()
    assert (tmp_path / "x.c").stat().st_mode & 0o777 == 0o640
    status, out, err = run("x.c", *ANSWER, "--apply")
    assert status == 0 and "0 sites" in err


def test_allow_dirty(run, tmp_path):
    (tmp_path / "link.c").symlink_to("x.c")
    status, out, err = run("link.c", *ANSWER, "--apply", "--allow-dirty")
    assert status == 0 and (tmp_path / "link.c").is_symlink()
    assert "PyThreadState_Release" in (tmp_path / "x.c").read_text()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "the following arguments are required: PATH"),
        (["nothing.c"], "nothing.c is no file or folder"),
        (["x.c", "--failure-value", "f"], "write 'callback_name=EXPR'"),
        (["x.c", "--decisions", "nothing.toml"], "nothing.toml"),
        (["x.c", "--min-python", "3.8"], "pep788.h is for CPython 3.9 and later, not for 3.8"),
        (["x.c", "--min-python", "three"], "'three' is no version"),
    ],
)
def test_wrong_usage(run, arguments, complaint):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert complaint in err and "Traceback" not in err
