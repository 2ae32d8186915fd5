"""One run of the program under test: started, watched, looked at when it crashes or hangs, and cleaned up after."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Optional

from .._processes import kill_session
from . import _record, _stacks
from ._record import Record

INJECT = pathlib.Path(__file__).resolve().parent / "inject"
OUTPUT_LIMIT = 64_000
KILL_SECONDS = 2.0
DUMP_SECONDS = 2.0
"""How long a hung process may take to write its Python stacks, which the signal ABRT makes faulthandler do."""


class SetupError(Exception):
    """Nothing could be run; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """In seconds: from the moment that finalization begins, and for the whole run."""

    exit_s: float
    run_s: float


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is known of a run that is over."""

    seed: int
    status: int
    """As subprocess has it: negative for a signal."""
    hung: str
    """Why it was taken for hung and killed, or ""."""
    records: tuple[Record, ...]
    """Of the processes that were a Python, the first one first."""
    stderr: str
    """What it wrote, to standard output, too; of much only the end."""
    stacks: str
    """Stacks of all threads at the moment of the crash or while it hung, or ""."""
    seconds: float
    over_ns: int
    """When it was seen to be over (CLOCK_MONOTONIC)."""


class Child:
    """A process in a session of its own, so that whatever it starts dies with it."""

    def __init__(
        self, argv: Sequence[str], seed: int, amplify: bool, limits: Limits, probe: Optional[pathlib.Path], embed: bool
    ) -> None:
        self._seed, self._limits, self._embed = seed, limits, embed
        try:
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="pep788-stress-"))
        except OSError as error:
            raise SetupError(f"no temporary folder ({error.strerror}): set TMPDIR to one you can write") from error
        self._stacks = ""
        self._looked: set[int] = set()
        self._output = _Tail()
        self._began = time.monotonic()
        self._hung = ""
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                argv,
                env=_environment(self._folder, seed if amplify else 0, probe),
                stdin=subprocess.DEVNULL,
                stdout=self._output.writer,
                stderr=self._output.writer,
                start_new_session=True,
            )
        except BaseException:
            self._output.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            self._output.close_writer()

    def poll(self, wanted: _stacks.Wanted) -> Optional[Ended]:
        """The result, or None as long as it runs.  ``wanted`` says of which crashes the stacks are still of use."""
        self._output.read()
        if not self._is_over():
            heads = self._records(head=True)
            self._look_at_crashes(heads, wanted)
            why = self._why_hung(heads)
            if not why:
                return None
            self._hung = why
            self._look_at_hang(heads, wanted)
        records = self._records()
        over_ns = time.monotonic_ns()
        self.kill()
        pythons = tuple(sorted((record for record in records if record.python), key=lambda record: record.begin_ns))
        return Ended(
            seed=self._seed,
            status=self._process.returncode,
            hung=self._hung,
            records=pythons,
            stderr=self._output.text(),
            stacks=self._stacks,
            seconds=time.monotonic() - self._began,
            over_ns=over_ns,
        )

    def kill(self) -> None:
        """Kill the session, reap its leader and remove what it has written; harmless once more."""
        kill_session(self._process)
        self._kill_strays()
        self._output.read()
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill_strays(self) -> None:
        """Kill what has left the session (daemons): each process has a record, and our folder in its environment."""
        end = time.monotonic() + KILL_SECONDS
        mark = f"\0PEP788_STRESS_DIR={self._folder}\0".encode()
        strays = True
        while strays and time.monotonic() < end:
            strays = False
            for path in self._folder.glob("[0-9]*"):
                try:
                    if mark in b"\0" + pathlib.Path("/proc", path.name, "environ").read_bytes():
                        strays = True  # or was until now: it is gone when its environment is
                        os.kill(int(path.name), signal.SIGKILL)
                except OSError:  # it has ended, or is not ours; or there is no /proc
                    pass

    def _is_over(self) -> bool:
        """Whether the leader has ended; it is left to be reaped, so that its group can be killed without a race."""
        if not hasattr(os, "waitid"):  # macOS up to 3.12
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _records(self, head: bool = False) -> list[Record]:
        found = (_record.read(path, head) for path in self._folder.iterdir())
        return [record for record in found if record is not None]

    def _look_at_crashes(self, heads: Sequence[Record], wanted: _stacks.Wanted) -> None:
        for head in heads:
            if head.crash_ready and head.pid not in self._looked:
                self._looked.add(head.pid)
                path = self._folder / str(head.pid)
                record = _record.read(path)
                if record is not None and wanted.crash(record):
                    self._stacks = _stacks.collect(record.pid, record.crash_thread)
                _record.release(path)

    def _why_hung(self, records: Sequence[Record]) -> str:
        now_ns = time.monotonic_ns()
        for record in records:
            ending_ns = record.ending_ns
            if not record.python or not ending_ns or record.crash_signal:
                continue
            if self._embed and record.stage >= _record.RUNTIME_ENDS:
                continue  # the program has a life of its own after Py_FinalizeEx
            if (now_ns - ending_ns) * 1e-9 > self._limits.exit_s and _is_alive(record.pid):
                return f"not gone {self._limits.exit_s:g} s after it began to finalize"
        if time.monotonic() - self._began > self._limits.run_s:
            return f"still running after {self._limits.run_s:g} s"
        return ""

    def _look_at_hang(self, records: Sequence[Record], wanted: _stacks.Wanted) -> None:
        alive = [record for record in records if record.python and _is_alive(record.pid)]
        if not alive:
            return
        hung = min(alive, key=lambda record: record.ending_ns or 2**63)
        if wanted.hang(hung):
            self._stacks = _stacks.collect(hung.pid, hung.pid)
        # faulthandler then writes the Python stacks, and the probe the native one of the main thread.
        path = self._folder / str(hung.pid)
        try:
            _record.release(path)
            os.kill(hung.pid, signal.SIGABRT)
        except OSError:  # it has just ended
            return
        end = time.monotonic() + DUMP_SECONDS
        while time.monotonic() < end and not self._is_over():
            self._output.read()
            time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _environment(folder: pathlib.Path, seed: int, probe: Optional[pathlib.Path]) -> Mapping[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PEP788_STRESS_")}
    env.update(PEP788_STRESS_DIR=str(folder), PEP788_STRESS_SEED=str(seed))
    env.setdefault("PYTHONFAULTHANDLER", "1")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(INJECT), env.get("PYTHONPATH")]))
    if probe is not None:
        env["LD_PRELOAD"] = " ".join(filter(None, [str(probe), env.get("LD_PRELOAD")]))
    return env


class _Tail:
    """What a child writes, read without blocking; of much output only the end is kept."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.writer: IO[bytes] = open(writer, "wb", buffering=0)
        self._kept = b""
        self._open = True

    def read(self) -> None:
        while self._open:
            try:
                data = os.read(self._reader, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            self._kept = (self._kept + data)[-OUTPUT_LIMIT:]

    def close_writer(self) -> None:
        self.writer.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._reader)

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")
