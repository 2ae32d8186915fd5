"""The script of PyAudio's row: play silence, and fall off the end while PortAudio calls back."""

from __future__ import annotations

import ctypes
import os
import threading

import pyaudio  # type: ignore[import-untyped]

# The library is loaded already. PyDLL: the call keeps the GIL, as if it were not there.
watch = ctypes.PyDLL(os.environ["LD_PRELOAD"].split(os.pathsep)[0])
busy = threading.Semaphore(0)


def callback(data: object, frames: int, times: object, status: int) -> tuple[bytes, int]:
    watch.watch_attached()
    busy.release()
    return bytes(2 * frames), pyaudio.paContinue


audio = pyaudio.PyAudio()
stream = audio.open(
    rate=48000,
    channels=1,
    format=pyaudio.paInt16,
    output=True,
    frames_per_buffer=64,
    stream_callback=callback,
)
for _ in range(20):
    busy.acquire()
