"""The same threads, with the functions of pep788.h."""

import threading

import loops

called = threading.Event()
loops.start(called.set)
called.wait()
