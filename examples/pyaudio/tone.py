"""A callback in a module of its own, as in programs that are split into files.

It matters: PyAudio's stream holds the callback, a function holds the globals it was defined in, and the garbage
collector cannot see the first of these references.  Were the stream one of those globals, it would never be freed.
"""

import threading

import pyaudio

playing = threading.Event()
calls = 0


def callback(in_data, frame_count, time_info, status):
    """Some Python work on PortAudio's thread; never asks for the end."""
    global calls
    calls += 1
    if calls == 20:
        playing.set()
    return bytes(2 * frame_count), pyaudio.paContinue
