"""F10: Ctrl-C ends the wait and loses no data that Python would have flushed."""

from __future__ import annotations

import pytest
import support
from f_tools import child

pytestmark = support.ours_only("3.15.2 calls exit(1) in C, with the buffers of Python files unwritten")

# The first report says that finalization waits: only then comes the signal. The guard is never closed.
WAITING = """
import atexit, io, os, sys, threading
import f_probe as m
m.guard()
m.tee_stderr("ends the wait.", 1, 1)
m.thread(("wait", 1), ("kill", 2))
folder = sys.argv[1]
{code}
"""


def interrupted(tmp_path, code: str, **options) -> support.Result:
    env = {"PEP788_REPORT_AFTER": "0.1"}
    return child(WAITING.format(code=code), env=env, args=[str(tmp_path)], timeout=30, **options).check(1)


FILES = """
text = open(folder + "/text", "w")
text.write("text")
binary = open(folder + "/binary", "wb", buffering=1 << 16)
binary.write(b"binary")
appended = open(folder + "/appended", "a+")
appended.write("appended")
class Holder:
    pass
holder = Holder()
holder.file = open(folder + "/attribute", "w")
holder.file.write("attribute")
wrapped = io.TextIOWrapper(io.BufferedWriter(io.FileIO(folder + "/wrapped", "w")))
wrapped.write("wrapped")
"""


def test_F10_data_in_open_files_is_on_disk(tmp_path) -> None:
    interrupted(tmp_path, FILES)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {name: name for name in ("text", "binary", "appended", "attribute", "wrapped")}


def test_F10_stdout_is_flushed(tmp_path) -> None:
    assert interrupted(tmp_path, "sys.stdout.write('unfinished line')").out == "unfinished line"


def test_F10_the_message_and_the_interrupt_are_reported(tmp_path) -> None:
    err = interrupted(tmp_path, "").err
    assert err.splitlines().count("Interrupted while waiting on finalization guards") == 1, err
    assert "KeyboardInterrupt" in err


@pytest.mark.parametrize("leave", ["sys.exit(0)", "sys.exit(5)", "raise ValueError('why it ended')"])
def test_F10_the_status_is_1_whatever_the_program_ended_with(tmp_path, leave: str) -> None:
    interrupted(tmp_path, FILES + leave)
    assert (tmp_path / "text").read_text() == "text"


def test_F10_a_file_of_a_daemon_thread_that_holds_a_guard(tmp_path) -> None:
    """The thread sits in C with its thread state detached; its file is reachable from a module, and is flushed."""
    code = """
files = []
def run():
    guard = m.guard()
    files.append(open(folder + "/daemon", "w"))
    files[0].write("daemon")
    started.set()
    m.wait(60)
started = threading.Event()
threading.Thread(target=run, daemon=True).start()
started.wait()
"""
    interrupted(tmp_path, code)
    assert (tmp_path / "daemon").read_text() == "daemon"
