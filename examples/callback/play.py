"""A program that plays through sounddevice and ends in the middle of it.

The library's atexit hook stops the stream that was started last.  Here it is unregistered, as it is of no use to the
other streams, nor in a program whose own atexit callbacks, or C library, end later.  `play.py LIBRARY`: another C
library of the program, which takes a tenth of a second to end.
"""

import atexit
import ctypes
import os
import sys
import threading

import sounddevice

atexit.unregister(sounddevice._exit_handler)
ctypes.CDLL(sys.argv[1]).linger()
playing = threading.Event()
calls = 0


def callback(data, frames, time, status):
    global calls
    calls += 1
    data[:] = bytes(len(data))
    if calls == 20:
        playing.set()


stream = sounddevice.RawOutputStream(samplerate=48000, channels=1, dtype="int16", blocksize=64, callback=callback)
stream.start()
playing.wait()
os.write(1, b"the end\n")
