"""cffi (sounddevice, PortAudio, an ALSA device that plays nothing): the program ends in mid-stream.

sounddevice's own atexit hook, which stops the streams, is unregistered: that is how its users meet the problem when
something else keeps the hook from running in time.
"""

import atexit
import os
import pathlib
import tempfile
import threading

folder = pathlib.Path(tempfile.mkdtemp())
os.environ["ALSA_CONFIG_PATH"] = str(folder / "asound.conf")
(folder / "asound.conf").write_text("pcm.!default { type null }\nctl.!default { type null }\n")

import sounddevice  # noqa: E402

busy = threading.Semaphore(0)


def silence(out, frames, time, status):
    busy.release()
    out[:] = bytes(len(out))


atexit.unregister(sounddevice._exit_handler)
streams = [sounddevice.RawOutputStream(callback=silence, blocksize=32, channels=1) for _ in range(4)]
for stream in streams:
    stream.start()
for _ in range(50):
    busy.acquire()
