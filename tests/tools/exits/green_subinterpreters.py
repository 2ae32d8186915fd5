"""Subinterpreters that are ended, one that is left, and threads beside them."""

import sys
import threading

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
else:
    import _xxsubinterpreters as interpreters

threads = [threading.Thread(target=sum, args=(range(100_000),)) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(2):
    one = interpreters.create()
    interpreters.run_string(one, "import atexit; atexit.register(len, 'x')")
    interpreters.destroy(one)
