"""Threads that log through a queue; the listener is stopped and the handlers are closed at exit."""

import atexit
import io
import logging
import logging.handlers
import queue
import threading

records = queue.Queue()
listener = logging.handlers.QueueListener(records, logging.StreamHandler(io.StringIO()))
logging.basicConfig(level=logging.INFO, handlers=[logging.handlers.QueueHandler(records)])
listener.start()
atexit.register(listener.stop)


def talk(number):
    for at in range(50):
        logging.info("thread %d says %d", number, at)


for number in range(4):
    threading.Thread(target=talk, args=(number,)).start()
