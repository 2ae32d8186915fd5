"""Four native threads in a loop of PyGILState_Ensure, Python, PyGILState_Release."""

import threading

import loops

called = threading.Event()
loops.start(called.set)
called.wait()
