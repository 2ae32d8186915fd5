"""cffi (pynng): callbacks of connecting pipes on the threads of nng."""

import threading

import pynng

busy = threading.Semaphore(0)
server = pynng.Bus0(listen="inproc://pipes")
server.add_post_pipe_connect_cb(lambda pipe: busy.release())
server.add_post_pipe_remove_cb(lambda pipe: busy.release())


def dial():
    while True:
        pynng.Bus0(dial="inproc://pipes").close()


for _ in range(3):
    threading.Thread(target=dial, daemon=True).start()
for _ in range(40):
    busy.acquire()
