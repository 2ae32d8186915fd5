"""The record of one process under ``pep788 stress``: a file that its interpreter and the probe write into.

The layout is that of record_t in _probe.c, and of the writes of inject/_pep788_stress.py.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from typing import Optional

STAGES = (
    "running",
    "waiting for threads (threading._shutdown)",
    "atexit callbacks",
    "between atexit callbacks and module teardown",
    "module teardown",
    "last garbage collection",
    "emptying sys and builtins",
    "after Py_FinalizeEx",
)
TEARDOWN = 4
"""From this stage on CPython's finalizing flag is set: it was set between this stage and the one before."""
RUNTIME_ENDS = 6

MAGIC = b"PEP788S1"
STARTED, ENDED, KILLED, PARKED, CRASHED = range(1, 6)
RELEASED = 2

_HEAD = struct.Struct("=8siIii8qqiiiiII")
_EVENT, _LOSS = struct.Struct("=qii"), struct.Struct("=qiii20s2048s")
_EVENTS, _LOSSES, _TEXT = 1024, 16, 2048
_EVENTS_AT = 120
_LOSSES_AT = _EVENTS_AT + _EVENTS * _EVENT.size
_FRAMES_AT = _LOSSES_AT + _LOSSES * _LOSS.size
_HOLD_AT = 104
_WRITTEN_BY_PYTHON = 96
"""Bytes from the beginning; where there is no probe that is all."""
SIZE = _FRAMES_AT + _TEXT


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a foreign thread; ``kind`` is STARTED, ENDED, KILLED, PARKED or CRASHED."""

    ns: int
    thread: int
    kind: int


@dataclasses.dataclass(frozen=True)
class Loss:
    """A foreign thread that CPython ended (KILLED) or put to sleep for ever (PARKED), and its stack at that moment."""

    thread: int
    kind: int
    stage: int
    name: str
    frames: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of one process; times are CLOCK_MONOTONIC in nanoseconds, 0 for a stage it has not seen."""

    pid: int
    python: str
    """The version, such as "3.12.1"; empty for a process that is no Python, or does not import sitecustomize."""
    probed: bool
    stage: int
    stage_ns: tuple[int, ...]
    begin_ns: int
    crash_signal: int
    crash_thread: int
    crash_ready: bool
    crash_frames: tuple[str, ...]
    losses: tuple[Loss, ...]
    lost: int
    """Foreign threads lost in all: ``losses`` has the first of them."""
    events: tuple[Event, ...]

    @property
    def ending_ns(self) -> int:
        """When finalization began, or 0."""
        return min((ns for ns in self.stage_ns[1:] if ns), default=0)


def read(path: pathlib.Path, head: bool = False) -> Optional[Record]:
    """Read the record, or None for a file that is not complete yet.

    ``head``: without frames, losses and events, for who looks often.
    """
    with path.open("rb") as file:
        data = file.read(_HEAD.size if head else SIZE)
    if len(data) < _WRITTEN_BY_PYTHON or not data.startswith(MAGIC):
        return None
    data = data.ljust(SIZE, b"\0")
    fields = _HEAD.unpack_from(data)
    _, pid, version, stage, probed = fields[:5]
    stage_ns, begin_ns = fields[5:13], fields[13]
    signal, thread, _, ready = fields[14:18]
    events, losses = (0, 0) if head else fields[18:]
    return Record(
        pid=pid,
        python=f"{version >> 24}.{version >> 16 & 255}.{version >> 8 & 255}" if version else "",
        probed=bool(probed),
        stage=min(max(stage, 0), len(STAGES) - 1),
        stage_ns=stage_ns,
        begin_ns=begin_ns,
        crash_signal=signal,
        crash_thread=thread,
        crash_ready=bool(ready),
        crash_frames=_lines(data[_FRAMES_AT : _FRAMES_AT + _TEXT]),
        losses=tuple(_loss(data, number) for number in range(min(losses, _LOSSES))),
        lost=losses,
        events=tuple(
            Event(*_EVENT.unpack_from(data, _EVENTS_AT + number * _EVENT.size))
            for number in range(min(events, _EVENTS))
        ),
    )


def _loss(data: bytes, number: int) -> Loss:
    _, thread, kind, stage, name, frames = _LOSS.unpack_from(data, _LOSSES_AT + number * _LOSS.size)
    return Loss(thread, kind, stage, _text(name), _lines(frames))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _lines(raw: bytes) -> tuple[str, ...]:
    return tuple(_text(raw).splitlines())


def release(path: pathlib.Path) -> None:
    """Let a crashed process that waits for us go on to its end."""
    with path.open("r+b") as file:
        file.seek(_HOLD_AT)
        file.write(struct.pack("=i", RELEASED))
