"""SARIF, GitHub annotations, baseline, configuration, pre-commit hook."""

from __future__ import annotations

import json
import re

import pytest
import support
from pep788_check import cli

PAIR = """
static void on_event(void *data)
{
    int state = PyGILState_Ensure();
    PyGILState_Release(state);
}
"""


@pytest.fixture
def run(checker, capsys, monkeypatch, tmp_path):
    """Run the command in a folder of its own; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_sarif(run, tmp_path):
    (tmp_path / "a b.c").write_text(PAIR)
    (tmp_path / "broken.pyx").write_text("cdef f( with gil:\n")
    status, out, _ = run(".", "--format", "sarif")
    document = json.loads(out)
    assert status == 1 and document["version"] == "2.1.0"
    (only,) = document["runs"]
    rules = only["tool"]["driver"]["rules"]
    for result in only["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"] and result["partialFingerprints"]["pep788/v1"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.c"
    (note,) = only["invocations"][0]["toolExecutionNotifications"]
    assert note["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "broken.pyx"


def test_fix_in_sarif_gives_code_without_the_finding(run, tmp_path):
    (tmp_path / "x.c").write_text(PAIR)
    document = json.loads(run("x.c", "--format", "sarif", "--select", "P106")[1])
    (result,) = document["runs"][0]["results"]
    (replacement,) = result["fixes"][0]["artifactChanges"][0]["replacements"]
    data = (tmp_path / "x.c").read_bytes()
    start = replacement["deletedRegion"]["byteOffset"]
    end = start + replacement["deletedRegion"]["byteLength"]
    data = data[:start] + replacement["insertedContent"]["text"].encode() + data[end:]
    assert b"    PyGILState_STATE state = PyGILState_Ensure();" in data
    (tmp_path / "x.c").write_bytes(data)
    assert run("x.c", "--select", "P106")[0] == 0


def test_github_annotations(run, tmp_path):
    (tmp_path / "x,y.c").write_text(PAIR)
    status, out, _ = run(".", "--format", "github", "--select", "P106")
    assert status == 1
    assert re.match(r"::error file=x%2Cy\.c,title=P106 state-type,line=4,endLine=4,col=17,endColumn=36::The result", out)
    assert len(out.splitlines()) == 1


def test_baseline(run, tmp_path):
    (tmp_path / "x.c").write_text(PAIR)
    status, out, _ = run(".", "--write-baseline", "known.json")
    assert (status, out) == (0, "wrote known.json: 2 known findings\n")
    status, out, _ = run(".", "--baseline", "known.json")
    assert (status, out) == (0, "0 findings in 1 file, 6 lines; 2 in the baseline\n")
    (tmp_path / "x.c").write_text("\n\n" + PAIR.replace("int ", "int  ") + PAIR.replace("on_event", "on_other"))
    status, out, _ = run(".", "--baseline", "known.json", "--format", "json")
    assert status == 1
    assert {finding["function"] for finding in json.loads(out)["findings"]} == {"on_other"}
    assert json.loads(out)["in_baseline"] == 2


def test_second_finding_on_an_equal_line_is_not_known(run, tmp_path):
    (tmp_path / "x.c").write_text(PAIR)
    run(".", "--write-baseline", "known.json")
    twice = PAIR.replace("    PyGILState_Release(state);\n}", "    PyGILState_Release(state);\n" + PAIR.split("{\n")[1].rstrip())
    (tmp_path / "x.c").write_text(twice)
    assert run(".", "--baseline", "known.json", "--statistics")[0] == 1


@pytest.mark.parametrize("text", [None, "", "[]", '{"version": 0, "findings": []}', '{"version": 1, "findings": [1]}'])
def test_baseline_that_is_none(run, tmp_path, text):
    if text is not None:
        (tmp_path / "known.json").write_text(text)
    (tmp_path / "x.c").write_text(PAIR)
    status, out, err = run(".", "--baseline", "known.json")
    assert (status, out) == (2, "")
    assert err.startswith("pep788: known.json: ") and "--write-baseline known.json" in err


def test_configuration_is_found_upwards_and_the_command_line_wins(run, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.pep788]\nignore = ["P106"]\nexclude = ["old/"]\n')
    for name in ("x.c", "old/y.c", "deep/z.c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PAIR)
    monkeypatch.chdir(tmp_path / "deep")
    found = json.loads(run("..", "--format", "json")[1])["findings"]
    assert [(f["path"], f["rule"]) for f in found] == [("../deep/z.c", "P101"), ("../x.c", "P101")]
    assert len(json.loads(run("..", "--format", "json", "--ignore", "P101")[1])["findings"]) == 2
    assert len(json.loads(run("..", "--format", "json", "--isolated")[1])["findings"]) == 6


@pytest.mark.parametrize(
    "table, complaint",
    [
        ('selct = ["P1"]', "selct is not known; there are select, ignore"),
        ('select = "P1"', "select is not a list of strings"),
        ('select = ["Q1"]', "'Q1' is no rule"),
        ("notes = 1", "notes is neither true nor false"),
        ("baseline = []", "baseline is not a string"),
        ("[[", "pyproject.toml: "),
    ],
)
def test_wrong_configuration(run, tmp_path, table, complaint):
    (tmp_path / "pyproject.toml").write_text("[tool.pep788]\n" + table + "\n")
    status, out, err = run(".")
    assert (status, out) == (2, "")
    assert complaint in err and len(err.splitlines()) == 1


def test_pre_commit_hook_runs_the_command():
    text = (support.REPO / ".pre-commit-hooks.yaml").read_text()
    assert "entry: pep788 check\n" in text and "language: python\n" in text
    assert cli.build_parser().prog == "pep788 check"
