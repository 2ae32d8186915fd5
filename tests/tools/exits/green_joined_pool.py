"""The ctypes pool, stopped and joined by an atexit callback.  argv: the library."""

import atexit
import ctypes
import sys
import threading

called = threading.Event()
library = ctypes.CDLL(sys.argv[1])


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def callback(number):
    called.set()
    return number + 1


library.pool_start(callback, 4, ctypes.c_long(100))
atexit.register(library.pool_stop)
called.wait()
