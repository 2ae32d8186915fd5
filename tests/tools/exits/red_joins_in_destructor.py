"""A destructor that runs in module teardown waits for the answer of a daemon thread, which CPython has stopped by then."""

import os
import sys
import threading
import types

questions, ask = os.pipe()
answers, answer = os.pipe()


def serve():
    while os.read(questions, 1):
        os.write(answer, b"!")


class Client:
    def __del__(self, write=os.write, ask=ask, read=os.read, answers=answers):
        write(ask, b"?")
        read(answers, 1)


threading.Thread(target=serve, daemon=True).start()
# Not in __main__: the frame of the daemon thread keeps its globals for ever.
sys.modules["connection"] = types.ModuleType("connection")
sys.modules["connection"].client = Client()
