"""A program of pure Python that gives a callback to a C library with threads: `pool.py LIBRARY before|after`."""

import ctypes
import os
import sys
import threading

playing = threading.Event()
calls = 0


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def on_event(thread):
    global calls
    calls += 1
    if calls == 100:
        playing.set()
    return thread


if sys.argv[2] == "after":
    import pep788

    on_event = pep788.callback(on_event, on_closed=-1)

library = ctypes.CDLL(sys.argv[1])
library.start(on_event)
playing.wait()
os.write(1, b"the end\n")
