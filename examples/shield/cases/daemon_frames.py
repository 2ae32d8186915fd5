"""Daemon threads in C++ frames that give the GIL back and take it again in a destructor (pybind11's gil_scoped_release).

One of them returns every 10 ms or so, whatever the interpreter is doing by then.
"""

import threading
import time

import unmodified


def work():
    while True:
        unmodified.rest()  # 200 ms


for _ in range(20):
    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.01)
