"""A ctypes callback from native threads that nobody stops.  argv: the library, the pause in microseconds."""

import ctypes
import sys
import threading

called = threading.Event()
library = ctypes.CDLL(sys.argv[1])


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def callback(number):
    called.set()
    return number + 1


library.pool_start(callback, 4, ctypes.c_long(int(sys.argv[2])))
called.wait()
