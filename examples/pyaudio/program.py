"""The program that prove.py runs: plays silence through PyAudio and ends in the middle of it.

``program.py END``: what becomes of the stream at the end of the script.
"""

import atexit
import os
import sys

import pyaudio
import tone


def play(callback=tone.callback):
    """The audio host and a stream that has started."""
    audio = pyaudio.PyAudio()
    return audio, audio.open(
        rate=48000, channels=1, format=pyaudio.paInt16, output=True, frames_per_buffer=64, stream_callback=callback
    )


def local_callback(in_data, frame_count, time_info, status):
    """Holds this module's globals, and with them the stream that holds it."""
    return tone.callback(in_data, frame_count, time_info, status)


class Player:
    """Tidies up when it is deleted."""

    def __init__(self):
        self.audio, self.stream = play()

    def __del__(self):
        self.stream.stop_stream()
        self.stream.close()
        self.audio.terminate()
        os.write(1, b"stopped\n")


def stop_and_terminate():
    stream.stop_stream()
    stream.close()
    audio.terminate()
    os.write(1, b"stopped\n")


if sys.argv[1] == "left":  # never closed: plays on through finalization and after it, as in PyAudio's own examples
    audio, stream = play(local_callback)
elif sys.argv[1] == "freed":  # Pa_CloseStream from the stream's deallocation, while modules are torn down
    audio, stream = play()
elif sys.argv[1] == "__del__":  # Pa_StopStream, which waits for PortAudio's thread, while modules are torn down
    player = Player()
elif sys.argv[1] == "atexit":  # done right, before finalization: must work as ever
    audio, stream = play()
    atexit.register(stop_and_terminate)
else:
    sys.exit(f"program.py: unknown end {sys.argv[1]!r}")

if not tone.playing.wait(30):
    sys.exit("program.py: PortAudio does not call back")
os.write(1, b"the end\n")
