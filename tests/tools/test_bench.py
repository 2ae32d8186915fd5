"""The benchmark: its arguments, its arithmetic, its tables, and that it measures at all; nothing here is timed."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import support

BENCH = support.REPO / "bench"
sys.path.insert(0, str(BENCH))

import rows  # noqa: E402
import tables  # noqa: E402

RESULTS = {
    "format": 1,
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abcdef0",
    "repeats": 3,
    "quick": False,
    "include": "",
    "interrupted": False,
    "groups": ["attach", "guard", "views", "callbacks", "close"],
    "machine": {"cpu_model_name": "A processor", "cpu_count": "2"},
    "columns": {
        "3.14": {
            "busy": 0.0,
            "samples": {
                "attach": {"kept": [50.0, 60.0, 900.0], "view": [700.0] * 3, "gilstate": [500.0, 1000.0, 1000.0]},
                "guard": {"guard 1": [10.0] * 3},
                "views": {"1": [10.0] * 3, "100": [11.0] * 3, "1000": [13.0] * 3},
                "callbacks": {
                    "kept 1": [9e6] * 3,
                    "view 1": [1e5] * 3,
                    "pybind11 1": [1e5] * 3,
                    "cffi 1": [2e6] * 3,
                },
                "close": {"ours": [80.0, 90.0, 200.0]},
            },
            "missing": {"callbacks": {"nanobind 1": "nanobind has no version for this"}},
            "failed": {},
        },
        "3.15": {
            "about": {
                "ours": "the native functions, through pep788.h",
                "python": "3.15.2",
                "compilers": ["cc 1"],
                "libraries": {},
                "header": {"version": "0.1.0", "bytes": 1000, "sha256": "0" * 64},
            },
            "busy": 0.0,
            "samples": {"attach": {"view": [700.0] * 3, "gilstate": [500.0] * 3}},
            "missing": {"attach": {"kept": "this pep788.h has no Pep788_EnsureKept"}},
            "failed": {"guard": "the modules could not be built"},
        },
    },
}
BY_KEY = {row.key: row for row in rows.ROWS}


def judge(key: str, name: str = "3.14") -> rows.Cell:
    return rows.judge(BY_KEY[key], name, RESULTS["columns"][name])


def bench(*arguments: str, **options: object) -> support.Result:
    return support.run_child([sys.executable, str(BENCH / "bench.py"), *arguments], **options)  # type: ignore[arg-type]


# --- arithmetic and judgement ---------------------------------------------------------------------------------


def test_ratio_is_taken_round_by_round():
    assert rows.ratios([1, 4, 9], [2, 2, 3]) == [0.5, 2, 3]
    assert rows.ratios([1, 4, 9], [2, 2]) == [0.5, 2], "an interrupted round has none"


def test_spread_is_median_and_quartiles():
    assert rows.Spread.of([5, 1, 3, 2, 4]) == rows.Spread(3, 2, 4, 5)
    assert rows.Spread.of([7.0]) == rows.Spread(7, 7, 7, 1)


def test_median_of_ratios_is_not_ratio_of_medians():
    cell = judge("kept")
    assert cell.spread.median == pytest.approx(0.1)  # 0.1, 0.06, 0.9
    assert (cell.spread.count, cell.verdict) == (3, "met")


@pytest.mark.parametrize(
    "key, verdict, note",
    [
        pytest.param("fresh", "met", "", id="at most"),
        pytest.param("views", "NOT MET", "1,000 / 1", id="the largest against one"),
        pytest.param("callbacks-1", "met", "kept / cffi", id="at least, against the best"),
        pytest.param("callbacks-1-fresh", "", "kept / pybind11", id="no target"),
        pytest.param("close", "met", "", id="an absolute value"),
        pytest.param("guard-1", "", rows.ONLY_BESIDE_NATIVE, id="nothing native to compare with"),
        pytest.param("nested", "", "not measured", id="not measured"),
    ],
)
def test_targets_are_judged(key, verdict, note):
    assert (judge(key).verdict, judge(key).note) == (verdict, note)


def test_native_is_not_judged_as_ours():
    cell = judge("fresh", "3.15")
    assert cell.spread.median == pytest.approx(1.4)
    assert (cell.verdict, cell.note) == ("", "native itself")


def test_reasons_of_empty_cells_are_those_told():
    assert judge("kept", "3.15").note == "this pep788.h has no Pep788_EnsureKept"
    assert judge("guard-1", "3.15").note == "the modules could not be built"


def test_fewer_interpreters_than_promised_are_not_judged():
    column = copy.deepcopy(RESULTS["columns"]["3.14"])
    del column["samples"]["views"]["1000"]
    cell = rows.judge(BY_KEY["views"], "3.14", column)
    assert (cell.verdict, cell.note) == ("", "100 / 1")


def test_every_target_is_of_a_column_there_is():
    assert {name for row in rows.ROWS for name in row.targets} <= set(rows.ALL)
    assert {row.group for row in rows.ROWS} | {group for group, *_ in rows.CONTENDERS} == set(rows.GROUPS)


# --- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, text",
    [(0.01234, "0.0123"), (0.5, "0.500"), (1.0, "1.000"), (1.0246, "1.025"), (2.0, "2.00"), (12.345, "12.3"), (123.4, "123"), (1234567, "1,230,000"), (0, "0")],
)
def test_numbers_have_few_digits(value, text):
    assert tables.number(value) == text


def test_markdown_has_ratios_first():
    page = tables.markdown(RESULTS, ["guard.png"])
    assert page.index("## Ratios") < page.index("## Absolute") < page.index("## Where there is nothing")
    assert "| 0.100 (0.0800-0.500) met (<= 0.1) | - |" in page
    assert "**NOT MET** (<= 1.2) [1,000 / 1]" in page
    assert "4 targets met, 1 NOT MET" in page
    assert "| callbacks, cffi, 1 thread | k/s | 2,000 (2,000-2,000) | - |" in page
    assert "- nanobind 1: nanobind has no version for this [3.14]" in page
    assert "- guard: the modules could not be built [3.15]" in page
    assert "![guard.png](guard.png)" in page and "A processor" in page
    columns = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert columns == {5}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"quick": True}, "Not to be quoted"),
        ({"interrupted": True}, "It was interrupted"),
        ({"include": "/elsewhere"}, "another copy of pep788.h"),
        ({"columns": {"3.14": {**RESULTS["columns"]["3.14"], "busy": 80.0}}}, "up to 80 %"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_what_a_reader_must_know_is_said(change, said):
    assert not tables.remarks(RESULTS)
    assert said in "\n".join(tables.remarks({**RESULTS, **change}))


def test_tables_again_from_a_file(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(RESULTS))
    target = tmp_path / "new" / "new.json"
    bench("--from", str(tmp_path / "old.json"), "--json", str(target), "--no-plots").check()
    assert json.loads(target.read_text()) == RESULTS
    assert target.with_suffix(".md").read_text() == tables.markdown(RESULTS)


# --- arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        pytest.param(["--only", "gard"], "no such row: gard; did you mean guard?", id="row"),
        pytest.param(["--only", ","], "no row was named; there are attach,", id="no row"),
        pytest.param(["--interpreters", "3.8"], "no such interpreter: 3.8", id="interpreter"),
        pytest.param(["--interpreters", "3.14d"], "what a debug build takes tells nothing", id="debug build"),
        pytest.param(["--repeats", "0"], "--repeats 0: at least 1", id="repeats"),
        pytest.param(["--repeats", "many"], "invalid int value: 'many'", id="no number"),
        pytest.param(["--include", "nowhere"], "there is no pep788.h in it", id="include"),
        pytest.param(["--from", "nowhere"], "no such file", id="from"),
        pytest.param(["--json", "results"], "the name of a file, such as results.json", id="json"),
        pytest.param(["--slow"], "unrecognized arguments: --slow", id="unknown"),
    ],
)
def test_wrong_arguments_are_told(arguments, said):
    result = bench(*arguments).check(2)
    assert said in " ".join(result.err.split()) and not result.out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}'])
def test_a_file_that_is_no_result_is_told(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    result = bench("--from", str(tmp_path / "other.json"), "--json", str(tmp_path / "new.json")).check(2)
    assert result.err.startswith("bench: ") and not (tmp_path / "new.json").exists()


# --- measuring ------------------------------------------------------------------------------------------------


def here(tmp_path, *arguments: str) -> list[str]:
    return ["--interpreters", "here", "--quick", "--no-plots", "--json", str(tmp_path / "out.json"), *arguments]


@pytest.mark.skipif(support.DEBUG_BUILD, reason="what a debug build takes tells nothing")
@pytest.mark.parametrize("group, contender", [("guard", "guard 1"), ("attach", "gilstate"), ("close", "ours")])
def test_a_tiny_run_measures(tmp_path, group, contender):
    environment = {"PEP788_BUILD_DIR": str(support.BUILD)}
    bench(*here(tmp_path, "--only", group, "--repeats", "2"), env=environment, timeout=300).check()
    results = json.loads((tmp_path / "out.json").read_text())
    column = results["columns"]["here"]
    assert results["groups"] == [group] and not column["failed"] and not results["interrupted"]
    values = column["samples"][group][contender]
    assert len(values) == 2 and all(value > 0 for value in values)
    assert column["about"]["python"].split()[0] == sys.version.split()[0]
    assert column["commands"] and (tmp_path / "out.md").exists()


@pytest.mark.skipif(support.DEBUG_BUILD, reason="what a debug build takes tells nothing")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds its children through /proc")
def test_ctrl_c_keeps_what_was_measured_and_leaves_no_children(tmp_path):
    arguments = here(tmp_path, "--only", "guard", "--repeats", "100000")
    environment = {**os.environ, "PEP788_BUILD_DIR": str(support.BUILD), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, str(BENCH / "bench.py"), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        mark = f"PEP788_MATRIX=bench-{process.pid}-here".encode()
        deadline = time.monotonic() + 200
        while not measuring(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)  # some rounds
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not marked(mark)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["interrupted"] and results["columns"]["here"]["samples"]["guard"]["guard 1"]


def marked(mark: bytes) -> list[bytes]:
    """The command lines of the processes that the benchmark started."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"{entry.path}/environ", "rb") as environ, open(f"{entry.path}/cmdline", "rb") as command:
                    if mark in environ.read().split(b"\0"):
                        found.append(command.read())
            except OSError:
                continue
    return found


def measuring(mark: bytes) -> bool:
    return any(command.endswith(b"\0measure\0") for command in marked(mark))
