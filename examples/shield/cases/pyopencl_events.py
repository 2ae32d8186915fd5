"""nanobind (pyopencl), PoCL: event callbacks on native threads, and the program ends."""

import threading

import numpy
import pyopencl

context = pyopencl.Context([pyopencl.get_platforms()[0].get_devices()[0]])
queue = pyopencl.CommandQueue(context)
host = numpy.zeros(1 << 16, dtype=numpy.float32)
buffer = pyopencl.Buffer(context, pyopencl.mem_flags.READ_WRITE, host.nbytes)
busy = threading.Semaphore(0)


def completed(status):
    busy.release()
    event = pyopencl.enqueue_copy(queue, buffer, host, is_blocking=False)
    event.set_callback(pyopencl.command_execution_status.COMPLETE, completed)


for _ in range(4):
    completed(0)
for _ in range(20):
    busy.acquire()
