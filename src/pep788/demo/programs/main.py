"""Start the threads, and fall off the end while they call back; PyAudio has a script of its own."""

import json
import os
import threading
import time

import program  # type: ignore[import-not-found]

events = open(os.devnull, "w")
busy = threading.Semaphore(0)


def on_event(number: int) -> None:
    """What callbacks do: a little Python and a little output."""
    events.write(json.dumps({"thread": number, "time": time.time()}) + "\n")
    events.flush()
    busy.release()


program.start(on_event)
for _ in range(20):
    busy.acquire()
