"""A destructor that runs in module teardown waits for a daemon thread, which CPython has stopped by then."""

import sys
import threading
import time
import types

asked, answered = threading.Event(), threading.Event()


def serve():
    while True:
        if asked.is_set():
            answered.set()
        time.sleep(0.001)


class Client:
    def __del__(self, asked=asked, answered=answered):
        asked.set()
        answered.wait()


threading.Thread(target=serve, daemon=True).start()
# Not in __main__: the frame of the daemon thread keeps its globals for ever.
sys.modules["connection"] = types.ModuleType("connection")
sys.modules["connection"].client = Client()
