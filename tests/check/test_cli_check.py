"""`pep788 check` as a command: its exit statuses, what it says without its extra, and its outputs."""

from __future__ import annotations

import json
import sys

import pytest
import support
from pep788_check import cli

PAIR = """
static void on_event(void *data)
{
	PyGILState_STATE state = PyGILState_Ensure();
	PyGILState_Release(state);
}
"""


@pytest.fixture
def run(capsys):
    """Run the command in this process; returns (status, stdout, stderr)."""

    def call(*arguments: str):
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_help_needs_nothing_but_the_standard_library(tmp_path):
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted({name.split(".")[0] for name in cli.NEEDED})!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Refuse())
from check_of_tree import cli
if len(sys.argv) > 1:
    sys.exit(cli.main(sys.argv[1:]))
"""
    (tmp_path / "check_of_tree").symlink_to(support.REPO / "src" / "pep788" / "check")
    help_text = support.run_child(code, path=[tmp_path], args=["--help"]).check()
    assert help_text.out.startswith("usage: pep788 check")
    without = support.run_child(code, path=[tmp_path], args=["."]).check(2)
    assert without.out == ""
    assert without.err.startswith("pep788: check needs tree_sitter (No module named tree_sitter): pip install 'pep788[check]'")
    assert len(without.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "name a file, folder, sdist, wheel or installed package"),
        (["--select", "X9", "."], "--select: 'X9' is no rule; `pep788 check --rules` lists them"),
        (["--select", "P9", "."], "--select: 'P9' is no rule"),
        (["--ignore", "P101,P1010", "."], "--ignore: 'P1010' is no rule"),
        (["--ignore", ",", "."], "',' is no rule"),
        (["--format", "xml", "."], "invalid choice: 'xml'"),
    ],
)
def test_wrong_usage(run, checker, arguments, complaint):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert complaint in err


def test_path_that_is_nothing(run, checker):
    status, out, err = run("no/such/folder")
    assert (status, out) == (2, "")
    assert err == "pep788: no/such/folder: no such file or folder, and no installed package of this name\n"


def test_file_of_another_kind(run, checker, tmp_path):
    (tmp_path / "x.txt").write_text("")
    status, _, err = run(str(tmp_path / "x.txt"))
    assert status == 2 and "not a kind of file that can be checked" in err


def test_clean_is_0_and_findings_are_1(run, checker, tmp_path):
    (tmp_path / "x.c").write_text("int x;\n")
    status, out, err = run(str(tmp_path))
    assert (status, out, err) == (0, "0 findings in 1 file, 1 line\n", "")
    (tmp_path / "x.c").write_text(PAIR)
    status, out, err = run(str(tmp_path))
    assert (status, err) == (1, "")
    frame = out.splitlines()[1:3]
    assert frame == [
        "  4 |     PyGILState_STATE state = PyGILState_Ensure();",
        "    |                              ^^^^^^^^^^^^^^^^^^^",
    ]
    table = [line.split()[:5] for line in out.splitlines() if line.startswith("rule ") or " warning " in line]
    assert table[0] == ["rule", "severity", "findings", "files", "what"] and table[1][:4] == ["P101", "warning", "1", "1"]
    assert out.splitlines()[-2:] == ["1 finding in 1 file, 6 lines", "pep788 migrate shows what of P101 it can rewrite"]


def test_internal_errors_are_2_and_ask_for_a_report(run, checker, monkeypatch, tmp_path):
    from pep788_check import engine

    monkeypatch.setattr(engine, "check", lambda options: 1 / 0)
    status, out, err = run(str(tmp_path))
    assert (status, out) == (2, "")
    assert "ZeroDivisionError" in err and err.splitlines()[-1].startswith("pep788: internal error; please report it")


def test_letters_that_the_terminal_has_not(checker, tmp_path):
    (tmp_path / "check_of_tree").symlink_to(support.REPO / "src" / "pep788" / "check")
    (tmp_path / "ü.c").write_text(PAIR.replace("void *data", "void *größe"), encoding="utf-8")
    code = "import sys; from check_of_tree import cli; sys.exit(cli.main(sys.argv[1:]))"
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    for form in ("text", "json", "sarif", "github"):
        arguments = [str(tmp_path / "ü.c"), "--format", form]
        result = support.run_child(code, path=[tmp_path], env=environment, args=arguments).check(1)
        assert result.err == ""


def test_baseline_in_a_folder_that_is_not_there(run, checker, tmp_path):
    (tmp_path / "x.c").write_text(PAIR)
    status, out, err = run(str(tmp_path), "--write-baseline", str(tmp_path / "no" / "known.json"))
    assert (status, out) == (2, "")
    assert "known.json: No such file or directory" in err and len(err.splitlines()) == 1


def test_json(run, checker, tmp_path):
    (tmp_path / "x.c").write_bytes(PAIR.replace("data", "ä").encode("latin-1"))
    status, out, _ = run(str(tmp_path), "--format", "json")
    report = json.loads(out)
    assert status == 1 and report["format"] == 1
    (finding,) = report["findings"]
    assert (finding["rule"], finding["line"], finding["column"]) == ("P101", 4, 27)
    data = (tmp_path / "x.c").read_bytes()
    assert data[finding["byte_start"] : finding["byte_end"]] == b"PyGILState_Ensure()"
    assert finding["data"]["variable"] == "state" and finding["related"][0]["line"] == 5


def test_select_and_ignore(run, checker, tmp_path):
    (tmp_path / "x.c").write_text(PAIR)
    assert run(str(tmp_path), "--select", "P102,P11")[0] == 0
    assert run(str(tmp_path), "--select", "P1")[0] == 1
    assert run(str(tmp_path), "--ignore", "P101")[0] == 0
    assert run(str(tmp_path), "--select", "p102,missing-release")[0] == 0
    assert run(str(tmp_path), "--select", "Gilstate-Pair")[0] == 1
    assert run(str(tmp_path), "--ignore", "gilstate-pair, p2")[0] == 0


FIXES = """
int on_event(void *data)
{
    int kept = PyGILState_Ensure();
    PyGILState_Release(kept);
    PyGILState_STATE state = PyGILState_Ensure();
    if (data == NULL)
        return -1;
    if (other(data)) {
        return result_of(data);
    }
    PyGILState_Release(state);
    return 0;
}
"""


def test_hidden_fixes_are_counted_and_announced(run, checker, tmp_path):
    (tmp_path / "x.c").write_text(FIXES)
    _, out, _ = run(str(tmp_path), "--select", "P102,P106")
    assert [line for line in out.splitlines() if line.startswith("  fix")] == [
        "  fix (safe): line 4: int becomes PyGILState_STATE",
    ]
    assert out.splitlines()[-3:] == [
        "1 safe fix shown, and in --format sarif",
        "1 unsafe fix hidden (--unsafe-fixes): look whether the meaning stays",
        "1 display-only fix hidden (--unsafe-fixes)",
    ]
    _, out, _ = run(str(tmp_path), "--select", "P102,P106", "--unsafe-fixes")
    assert [line for line in out.splitlines() if line.startswith("  fix")] == [
        "  fix (safe): line 4: int becomes PyGILState_STATE",
        "  fix (unsafe): line 8: insert { PyGILState_Release(state);",
        "  fix (unsafe): line 8: insert }",
        "  fix (display): line 10: insert PyGILState_Release(state);",
    ]
    assert "(--unsafe-fixes)" not in out


def test_nothing_to_check_is_told(run, checker, tmp_path):
    (tmp_path / "x.txt").write_text("")
    status, out, err = run(str(tmp_path))
    assert (status, out) == (0, "0 findings in 0 files, 0 lines\n")
    assert err == f"pep788: nothing to check in {tmp_path}: {cli.NOTHING}\n"
    (tmp_path / "x.c").write_text(PAIR)
    assert run(str(tmp_path), "--exclude", "*.c")[2].endswith(f"{cli.NOTHING}, *.c left out\n")


def test_statistics(run, checker, tmp_path):
    (tmp_path / "x.c").write_text(PAIR + PAIR)
    status, out, _ = run(str(tmp_path), "--statistics")
    assert status == 1
    assert out.splitlines()[1].split()[:4] == ["P101", "warning", "2", "1"]
    assert "^" not in out


def test_installed_package_by_name(run, checker):
    status, out, _ = run("rich")
    assert (status, out.splitlines()[-1].split()[:2]) == (0, ["0", "findings"])


def test_installed_package_by_the_name_it_is_imported_by(run, checker, tmp_path, monkeypatch):
    info = tmp_path / "Some_Thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some-Thing\nVersion: 1\n")
    (info / "RECORD").write_text("thing/x.pyx,,\nSome_Thing-1.dist-info/METADATA,,\n")
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "x.pyx").write_text("cdef void f() with gil:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Some-Thing", "thing"):
        status, out, _ = run(name, "--format", "json")
        assert status == 1 and [f["rule"] for f in json.loads(out)["findings"]] == ["P121"]


def test_editable_package_is_checked_where_its_source_is(run, checker, tmp_path, monkeypatch):
    source = tmp_path / "my source"
    source.mkdir()
    (source / "x.c").write_text(PAIR)
    info = tmp_path / "site" / "some_other-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-other\nVersion: 1\n")
    (info / "RECORD").write_text("some_other.pth,,\n")
    (info / "direct_url.json").write_text(json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    status, out, _ = run("some-other", "--format", "json")
    assert status == 1 and [f["path"] for f in json.loads(out)["findings"]] == [(source / "x.c").as_posix()]


@pytest.mark.parametrize("name", ["x.whl", "x.so"])
def test_what_was_named_and_cannot_be_read_is_not_clean(run, checker, tmp_path, name):
    (tmp_path / "x.whl").write_bytes(b"none")
    (tmp_path / "x.so").write_bytes(b"none")
    status, out, err = run(str(tmp_path / name))
    assert status == 2 and out.endswith("; skipped: 1 unreadable\n")
    assert err.startswith(f"pep788: {tmp_path / name}: ") and len(err.splitlines()) == 1
    assert run(str(tmp_path))[0] == 0  # as a part of a folder it is named, and no error


def test_rules_are_listed_with_a_page_and_a_test_each(run, checker):
    status, out, _ = run("--rules")
    assert status == 0
    ids = [line.split()[0] for line in out.splitlines()]
    assert ids == sorted(ids) and "P101" in ids
    files = {path.name[:4].upper() for path in (support.REPO / "src/pep788/check/rules").glob("p*.py")}
    tests = {path.name[5:9].upper() for path in (support.REPO / "tests/check").glob("test_p[0-9]*.py")}
    assert set(ids) == files == tests


def test_control_characters_do_not_reach_the_terminal(run, checker, tmp_path):
    (tmp_path / "x.c").write_text(PAIR.replace("state = ", "/* \x1b[2J */ state = "))
    status, out, _ = run(str(tmp_path))
    assert status == 1 and "\x1b" not in out


@pytest.mark.skipif(sys.version_info < (3, 10), reason="argparse of 3.9 says 'optional arguments'")
def test_help_in_the_docs_is_the_real_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    page = (support.REPO / "docs" / "check.md").read_text(encoding="utf-8")
    assert cli.build_parser().format_help() in page
