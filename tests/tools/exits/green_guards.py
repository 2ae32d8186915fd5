"""Daemon threads that write inside pep788.guard()."""

import threading

import pep788

ready = threading.Barrier(5)


def work(number):
    first = True
    while True:
        try:
            with pep788.guard():
                sum(range(100 * number))
        except pep788.PythonFinalizationError:
            return
        if first:
            first = False
            ready.wait()


for number in range(4):
    threading.Thread(target=work, args=(number,), daemon=True).start()
ready.wait()
