"""Run by run.py in an interpreter with a sanitizer: everything the extension can do, then exit with threads calling.

The argument is the directory of the extension. Prints what was done, so that a part that did not run is seen.
"""

import os
import sys
import time

sys.path.insert(0, sys.argv[1])

import pep788_sanitized as extension  # noqa: E402


def settle() -> None:
    """Wait for the native threads: they cannot be joined, only counted."""
    while extension.running():
        time.sleep(0.001)


def call_back() -> None:
    """What native threads call: allocates, and takes guards while inside."""
    extension.take_and_close()
    [object() for _ in range(10)]


def in_subinterpreters() -> bool:
    """A subinterpreter that uses guards and ends; the module for that has had several names."""
    try:
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
    except ImportError:
        return False
    code = f"import sys; sys.path.insert(0, {sys.argv[1]!r}); import pep788_sanitized as e; e.take_and_close()"
    for _ in range(3):
        interpreter = interpreters.create()
        failure = interpreters.run_string(interpreter, code)
        if failure is not None:
            raise RuntimeError(failure)
        interpreters.destroy(interpreter)
    return True


def in_child() -> None:
    """A child of a fork uses guards and exits normally, although a native thread of the parent holds one."""
    begun, go_on = os.pipe(), os.pipe()

    def wait() -> None:
        os.write(begun[1], b"x")
        os.read(go_on[0], 1)

    extension.start(wait, 1, 1)
    os.read(begun[0], 1)
    child = os.fork()
    if child == 0:
        extension.take_and_close()
        extension.start(call_back, 2, 10)
        while extension.running() > 1:  # the parent's thread is counted here, but does not exist
            time.sleep(0.001)
        sys.exit(0)
    status = os.waitpid(child, 0)[1]
    os.write(go_on[1], b"x")
    settle()
    if status != 0:
        raise RuntimeError(f"the child ended with status {status}")


print("modules:", extension.take_and_close())
extension.start(call_back, 4, 50)
settle()
print("subinterpreters:", in_subinterpreters())
in_child()
print("forked")
extension.start(call_back, 3, 0)  # they go on until they are refused
print("exiting")
