"""Give a library a ctypes callback, and fall off the end while its threads call it. argv[1] is the library."""

import ctypes
import json
import os
import sys
import threading
import time

library = ctypes.CDLL(sys.argv[1])
# PyDLL: this call keeps the GIL, as if it were not there.
attached = ctypes.PyDLL(sys.argv[1]).attached
events = open(os.devnull, "w")
busy = threading.Semaphore(0)


@ctypes.CFUNCTYPE(None, ctypes.c_long)
def on_event(number: int) -> None:
    """What callbacks do: a little Python and a little output."""
    attached()
    events.write(json.dumps({"thread": number, "time": time.time()}) + "\n")
    events.flush()
    busy.release()


assert library.start(on_event) == 0
for _ in range(20):
    busy.acquire()
