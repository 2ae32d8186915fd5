"""`pep788 demo`: its verdicts, its exit status, and that it can be interrupted.

Run from the tree in a package that has nothing else, so that its extension module need not be built.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from types import ModuleType
from typing import Dict, Tuple

import pytest
import support

SOURCE = support.REPO / "src" / "pep788"
SHARED = ["_console.py", "_processes.py"]

# The new API's names with the old API's behaviour: what the demo must not call green.
FAKE_HEADER = """
#include <Python.h>
#define PyInterpreterView void
#define PyThreadStateToken void
#define PyInterpreterView_FromCurrent() ((void *)1)
#define PyThreadState_EnsureFromView(view) ((void *)(intptr_t)(1 + (int)PyGILState_Ensure()))
#define PyThreadState_Release(token) PyGILState_Release((PyGILState_STATE)((intptr_t)(token) - 1))
#define Pep788_Init() 0
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder to put on the path, with the demo in a package of its own."""
    package = tmp_path_factory.mktemp("site") / "tree"
    package.mkdir()
    for name in ["demo", *SHARED]:
        (package / name).symlink_to(SOURCE / name)
    return package.parent


def demo(site: pathlib.Path, *arguments: str, **env: str) -> support.Result:
    return support.run_child([sys.executable, "-m", "tree.demo", *arguments], path=[site], env=env, timeout=300)


def test_demo_tells_old_from_new(site: pathlib.Path) -> None:
    for _ in range(10):  # by luck the old API may come through three runs unharmed
        result = demo(site, "--only", "pool", "--runs", "3", "--json").check()
        report = json.loads(result.out)
        cells: Dict[str, Dict[str, object]] = report["programs"][0]["cells"]
        if cells["old"]["ok"] != 3:
            break
    assert report["ok"] and not report["interrupted"]
    assert cells["new"]["ok"] == cells["new"]["runs"] == 3
    assert cells["recompiled"]["ok"] + cells["recompiled"]["parked"] == 3  # type: ignore[operator]
    assert cells["old"]["runs"] == 3 and cells["old"]["ok"] != 3, "the old API came through unharmed"
    assert cells["new"]["threads"]["refused"], "nothing was in flight, so nothing is proved"  # type: ignore[index]


def test_demo_is_not_green_by_construction(tmp_path: pathlib.Path) -> None:
    package = tmp_path / "site" / "fake"
    shutil.copytree(SOURCE / "demo", package / "demo")
    for name in SHARED:
        shutil.copy(SOURCE / name, package)
    (package / "include").mkdir()
    (package / "include" / "pep788.h").write_text(FAKE_HEADER)
    result = support.run_child(
        [sys.executable, "-m", "fake.demo", "--only", "pool", "--runs", "3", "--json"], path=[package.parent], timeout=300
    ).check(1)
    assert json.loads(result.out)["programs"][0]["cells"]["new"]["ok"] != 3


def test_demo_without_a_compiler_says_what_to_install(site: pathlib.Path) -> None:
    result = demo(site, "--only", "pool", PATH="/nonexistent", CC="", CXX="").check(2)
    assert "no C compiler found" in result.err and "apt install gcc" in result.err


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--runs", "x"], ["--timeout", "nan"], ["--only", "nothing"], ["x"]])
def test_demo_refuses_bad_usage(site: pathlib.Path, arguments: Tuple[str, ...]) -> None:
    assert "usage: pep788 demo" in demo(site, *arguments).check(2).err


def test_demo_refuses_bad_environment(site: pathlib.Path) -> None:
    assert "--runs" in demo(site, PEP788_DEMO_RUNS="many").check(2).err


def test_demo_prints_the_table_so_far_on_ctrl_c(site: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    argv = [sys.executable, "-m", "tree.demo", "--only", "pool", "--runs", "20"]
    env = dict(os.environ, PYTHONPATH=str(site), TMPDIR=str(scratch))
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert "C pthread pool | PyGILState" in process.stderr.readline()  # the first cell is complete
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "(interrupted)" in out.splitlines()[0]
    assert not list(scratch.iterdir()), "left its scratch folder behind"


def in_terminal(site: pathlib.Path, columns: int, **env: str) -> str:
    """What the demo writes to a terminal of so many columns."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    argv = [sys.executable, "-c", NO_RICH, "--only", "threads", "--only", "pool", "--runs", "2"]
    with subprocess.Popen(
        argv, env={**environment, "PYTHONPATH": str(site), **env}, stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        said = b""
        try:
            while block := os.read(master, 65536):
                said += block
        except OSError:  # Linux: EIO when the last one has closed the other end
            pass
        finally:
            os.close(master)
            process.kill()
    return said.decode()


NO_RICH = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "rich" else real(name, *rest)
from tree.demo import main
sys.exit(main(sys.argv[1:]))
"""


def test_demo_fits_the_terminal_and_ends_with_what_it_comes_to(site: pathlib.Path) -> None:
    """The line of the progress, too: one that wraps is never overwritten."""
    said = in_terminal(site, 80)
    shown = [re.sub(r"\x1b\[[0-9;]*[mK]", "", line) for line in re.split(r"[\r\n]+", said)]
    assert all(len(line) <= 80 for line in shown), said
    last = " ".join(shown).strip()
    assert re.search(r"(pep788|native): 4 of 4 processes ended well; [^.]*PyGILState: [0-4] of 4$", last), said
    assert "\x1b[32m2/2 ok" in said


def test_demo_without_colours(site: pathlib.Path) -> None:
    said = in_terminal(site, 80, NO_COLOR="1")
    assert "2/2 ok" in said and not re.search(r"\x1b\[[0-9]*m", said), said


# --- verdicts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_module(site: pathlib.Path) -> ModuleType:
    sys.path.insert(0, str(site))
    try:
        return importlib.import_module("tree.demo._run")
    finally:
        sys.path.remove(str(site))


# asked, attached, back, refused, killed at the door, killed inside, finished
VERDICTS = {
    "all came back": (0, (9, 9, 9, 0, 0, 0, 1), ("ok", "")),
    "refused": (0, (9, 7, 7, 2, 0, 0, 1), ("ok", "")),
    "asleep at the door": (0, (9, 7, 7, 0, 0, 0, 1), ("parked", "")),
    "asleep inside": (0, (9, 9, 8, 0, 0, 0, 1), ("lost", "")),
    "killed at the door": (0, (9, 8, 8, 0, 1, 0, 1), ("lost", "")),
    "killed inside": (0, (9, 9, 8, 0, 0, 1, 1), ("lost", "")),
    "left early": (0, (9, 9, 9, 0, 0, 0, 0), ("error", "exit status 0, but before the end of the process")),
    "signal": (-11, (9, 9, 9, 0, 0, 0, 0), ("crash", "SIGSEGV")),
    "status": (3, (9, 9, 9, 0, 0, 0, 1), ("error", "exit status 3")),
}


@pytest.mark.parametrize("name", list(VERDICTS))
def test_demo_verdicts(run_module: ModuleType, name: str) -> None:
    status, counts, verdict = VERDICTS[name]
    assert run_module.classify(status, False, run_module.Ledger(*counts)) == verdict
    assert run_module.classify(status, True, run_module.Ledger(*counts)) == ("hang", "")
