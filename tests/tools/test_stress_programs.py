"""`pep788 stress` on whole programs: it finds those that fail at exit, says how, and never accuses a correct one.

PEP788_TEST_TRIES=50 makes it 200 runs of each correct program (`make exits`).
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
from typing import Callable

import pytest
import support

EXITS = pathlib.Path(__file__).parent / "exits"
RUNS = support.tries(4)
KILLS = sys.version_info < (3, 13, 8)
"""Late threads are ended by pthread_exit; later CPythons let them sleep for ever (gh-87135)."""
LIMIT_SECONDS = 600

Stress = Callable[..., dict]


@pytest.fixture
def stress(package, tmp_path) -> Stress:
    """Run a program of exits/ under pep788 stress; returns its JSON report."""

    def run(program, *arguments, options=(), path=(), env=None, status=None):
        output = tmp_path / "report.json"
        argv = [sys.executable, "-m", "pep788", "stress", "--format", "json", "-o", output, *options]
        argv += ["--", sys.executable, EXITS / program, *arguments]
        result = support.run_child([str(word) for word in argv], path=[package, *path], env=env, timeout=LIMIT_SECONDS)
        assert result.returncode in (0, 1), result.describe()
        report = json.loads(output.read_text())
        assert report["failed"] == bool(result.returncode)
        if status is not None:
            result.check(status)
        report["text"] = result.out
        return report

    return run


@pytest.fixture(scope="session")
def pool() -> pathlib.Path:
    return support.build_library("pool", [EXITS / "pool.c"])


def cell(report: dict) -> dict:
    (only,) = report["cells"]
    return only


def stress_until_it_fails(stress: Stress, *arguments, **keywords) -> dict:
    """The report that shows a failure: by the luck of a few runs a program that fails may come through unharmed."""
    for _ in range(10):
        report = stress(*arguments, **keywords)
        counts = cell(report)["counts"]
        if counts["lost"] + counts["crash"] + counts["hang"]:
            return report
    pytest.fail(f"10 times nothing was found: {report['text']}")


# --- programs that fail -------------------------------------------------------------------------------------------


@pytest.mark.skipif(support.HAS_NATIVE, reason="3.15: PyGILState_Ensure holds a native guard, so late threads are rare")
@pytest.mark.parametrize("pause_us", [0, 100])
def test_a_ctypes_pool_is_found(stress, pool, pause_us):
    """With a pause of 100 us it fails in 0 of 60 plain runs on 3.12; the exit status is 0 all the time."""
    report = stress_until_it_fails(stress, "red_ctypes_pool.py", pool, pause_us, options=["--runs", "10"])
    for group in cell(report)["groups"]:
        if group["verdict"] == "lost":
            assert ("ended by CPython" in group["title"]) == KILLS
            # Killed while it attached, or at a switch of threads in the middle of its Python code.
            assert any("PyEval_" in frame or "PyGILState_" in frame for frame in group["frames"]), group
            assert "pep788.h" in group["advice"]


@pytest.mark.skipif(support.HAS_NATIVE, reason="3.15: PyGILState_Ensure holds a native guard, so late threads are rare")
def test_a_noexcept_pool_is_found(stress):
    noexcept = support.build_library("noexcept", [EXITS / "noexcept.cpp"], language="c++")
    report = stress_until_it_fails(stress, "red_ctypes_pool.py", noexcept, 100, options=["--runs", "6"])
    if KILLS:
        group = cell(report)["groups"][0]
        assert (group["verdict"], group["title"]) == ("crash", "SIGABRT: terminate called")
        assert "noexcept" in group["why"]
        sample = group["sample"]
        assert "terminate called" in sample["stderr"]
        if shutil.which("gdb"):
            assert "PyGILState_Ensure" in sample["stacks"] or "_probe" in sample["stacks"], sample["stacks"]


@pytest.mark.skipif(support.HAS_NATIVE, reason="3.15: PyGILState_Ensure holds a native guard, so late threads are rare")
def test_loops_are_red_with_the_old_api(stress):
    old = support.build_extension("loops", [EXITS / "loops.c"])
    stress_until_it_fails(stress, "red_loops.py", options=["--runs", "10"], path=[old])


def test_loops_are_green_with_pep788(stress):
    new = support.build_extension("loops", [EXITS / "loops.c"], defines=["WITH_PEP788"])
    report = stress("green_loops_pep788.py", options=["--runs", RUNS], path=[new])
    assert cell(report)["counts"]["ok"] == RUNS, report["text"]


@pytest.mark.parametrize(
    "program, title",
    [
        ("red_non_daemon.py", "hang: waiting for threads (threading._shutdown)"),
        ("red_joins_in_destructor.py", "hang: module teardown"),
    ],
)
def test_a_hang_is_named_by_its_stage(stress, program, title):
    report = stress(program, options=["--runs", "2", "--timeout", "1"])
    assert cell(report)["counts"]["hang"] == 2, report["text"]
    (group,) = cell(report)["groups"]
    assert group["title"] == title
    assert group["sample"]["stages"][0][-1][0] == title.split(": ", 1)[1]


def test_a_crash_before_the_end_of_the_program_is_told_from_one_at_exit(stress):
    (group,) = cell(stress("red_abort_in_atexit.py", options=["--runs", "2"]))["groups"]
    assert (group["verdict"], group["stage"]) == ("crash", "atexit callbacks")
    assert "Fatal Python error: Aborted" in group["sample"]["stderr"], "faulthandler's stacks"


def test_another_exit_status(stress):
    report = stress("red_status.py", options=["--runs", "2"], status=1)
    (group,) = cell(report)["groups"]
    assert (group["verdict"], group["title"]) == ("status", "exit status 1")
    assert "no configuration found" in group["why"]
    stress("red_status.py", options=["--runs", "2", "--status", "1"], status=0)


# --- correct programs: no false alarm, with the amplifier on ----------------------------------------------------------


def is_green(stress: Stress, program: str, *arguments: object, **options: object) -> None:
    report = stress(program, *arguments, options=["--runs", RUNS, "--timeout", "60"], **options)
    counts = cell(report)["counts"]
    assert counts["ok"] == RUNS, report["text"]
    assert all(run["seen"] for run in cell(report)["runs"]), "the amplifier was not there"


PLAIN = sorted(
    path.name
    for path in EXITS.glob("green_*.py")
    if path.stem not in ("green_joined_pool", "green_loops_pep788", "green_sitecustomize", "green_gevent")
)


@pytest.mark.parametrize("program", PLAIN)
def test_a_correct_program_is_green(stress, program):
    is_green(stress, program)


def test_a_pool_that_is_joined_is_green(stress, pool):
    is_green(stress, "green_joined_pool.py", pool)


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
def test_gevent_is_green(stress):
    is_green(stress, "green_gevent.py")


def test_a_sitecustomize_of_the_user_is_imported(stress, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text("MARK = 'mine'\n")
    is_green(stress, "green_sitecustomize.py", mine, path=[mine])


def test_without_a_sitecustomize_there_is_none(package, tmp_path):
    """As without pep788 stress: the name is free, and its folder is not on the path."""
    code = "import sys; assert 'sitecustomize' not in sys.modules; assert not [p for p in sys.path if 'pep788/' in p], sys.path"
    if importlib.util.find_spec("sitecustomize") is not None:
        pytest.skip("this interpreter has a sitecustomize of its own")
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", "2", "--", sys.executable, "-c", code]
    support.run_child(argv, path=[package]).check()


def test_an_embedding_program_may_go_on_after_python(package):
    """With --embed the clock of a hang stops when the interpreter is gone; without, the process should have ended."""
    program = support.build_program("embed", [EXITS / "embed.c"])
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", "2", "--timeout", "0.5", "--no-stacks"]
    result = support.run_child([*argv, "--embed", "--", program, "1", "2"], path=[package]).check()
    assert "no Python was seen" not in result.out
    result = support.run_child([*argv, "--", program, "1", "60"], path=[package]).check(1)
    assert "hang" in result.out


def test_an_embedding_program_may_initialize_again(package):
    program = support.build_program("embed", [EXITS / "embed.c"])
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", str(RUNS), "--embed", "--", program, "3"]
    assert "no Python was seen" not in support.run_child(argv, path=[package]).check().out


def test_nothing_is_left_behind(package, pool, tmp_path):
    """No temporary files, no processes: also of runs that crash, hang, or start others."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mark = "60788"
    program = f"""if True:
        import subprocess, threading
        subprocess.Popen(["sleep", "{mark}"])
        subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
        threading.Thread(target=threading.Event().wait).start()
    """
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", "2", "--timeout", "0.5", "--no-stacks"]
    support.run_child([*argv, "--", sys.executable, "-c", program], path=[package], env={"TMPDIR": str(scratch)}).check(1)
    assert not list(scratch.iterdir())
    listing = subprocess.run(["ps", "-eo", "args"], stdout=subprocess.PIPE, text=True).stdout
    assert f"sleep {mark}" not in listing
