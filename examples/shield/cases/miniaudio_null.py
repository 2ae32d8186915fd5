"""cffi (miniaudio): a null device plays what a Python generator makes, on the library's thread."""

import array
import threading

import miniaudio

busy = threading.Semaphore(0)


def silence():
    needed = yield b""
    while True:
        busy.release()
        needed = yield array.array("h", bytes(4 * needed))


device = miniaudio.PlaybackDevice(backends=[miniaudio.Backend.NULL], buffersize_msec=1)
generator = silence()
next(generator)
device.start(generator)
for _ in range(20):
    busy.acquire()
device.close = lambda: None  # a program that ends in the middle of the music
