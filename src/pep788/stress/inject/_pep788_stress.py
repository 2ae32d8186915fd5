"""Marks the stages of finalization in a program under ``pep788 stress`` and widens the windows between them.

Runs on CPython 3.9 and later, before the program and without the package pep788.

A stage is written into the record of the process (_record.py has the layout) with pwrite, and the file is opened each
time: the program may close all descriptors, fork, or change folders.  The pauses of the amplifier are ``time.sleep``
of up to 8 ms: other threads get in where they could have got in anyway, for longer.  Their lengths come from
PEP788_STRESS_SEED.
"""

PAUSE_US = 8000
BUDGET_US = 150_000  # a program with hundreds of atexit callbacks does not take minutes


def _begin():
    import os
    import struct
    import sys
    import time

    folder, main = os.environ.get("PEP788_STRESS_DIR"), str(os.getpid())
    if not folder or os.environ.get("PEP788_STRESS_MAIN") == main:
        return  # a subinterpreter: the process ends with the main one
    os.environ["PEP788_STRESS_MAIN"] = main
    random, left_us = [int(os.environ.get("PEP788_STRESS_SEED") or 0)], [BUDGET_US]
    amplified = bool(random[0])
    reached = [0]
    record, flags = os.path.join(folder, "%d"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC

    # What runs late has all it needs in its defaults: modules, and so the globals of functions, are emptied by then.
    def write(offset, data, os_open=os.open, pwrite=os.pwrite, close=os.close, getpid=os.getpid, error=OSError,
              record=record, flags=flags):  # fmt: skip
        try:
            file = os_open(record % getpid(), flags, 0o600)
        except error:
            return
        try:
            pwrite(file, data, offset)
        except error:
            pass
        finally:
            close(file)

    def mark(stage, write=write, pack=struct.pack, now=time.monotonic_ns, reached=reached):
        if stage > reached[0]:
            reached[0] = stage
            write(24 + 8 * stage, pack("=q", now()))
            write(16, pack("=i", stage))

    def pause(random=random, left_us=left_us, amplified=amplified, sleep=time.sleep, limit=PAUSE_US):
        if amplified and left_us[0] > 0:
            random[0] = (random[0] * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
            length_us = (random[0] >> 40) % limit
            left_us[0] -= length_us
            sleep(length_us * 1e-6)

    class Stage:
        """Marks a stage when the finalization of the interpreter drops the last reference to it."""

        __slots__ = ("_number",)

        def __init__(self, number):
            self._number = number

        def __del__(self, mark=mark, pause=pause, is_finalizing=sys.is_finalizing, unsetenv=os.unsetenv):
            if not is_finalizing():
                return  # the program has dropped it
            mark(self._number)
            pause()
            if self._number == 6:
                unsetenv("PEP788_STRESS_MAIN")  # an embedding program may initialize Python once more

    class Hook(Stage):
        """In the place of sys.__interactivehook__, which only an interactive interpreter calls."""

        __slots__ = ("_original",)

        def __init__(self, number, original):
            super().__init__(number)
            self._original = original

        def __call__(self):
            return self._original()

    write(0, b"PEP788S1" + struct.pack("=iIi", os.getpid(), sys.hexversion, 0))
    write(24, struct.pack("=9q", *[0] * 8, time.monotonic_ns()))
    _wrap_shutdown(mark, pause)
    _wrap_atexit(mark, pause, amplified)
    # finalize_modules() empties these in this order: some entries of sys, modules, cycles, the rest of sys.
    if hasattr(sys, "__interactivehook__"):
        sys.__interactivehook__ = Hook(4, sys.__interactivehook__)
    cycle = [Stage(5)]
    cycle.append(cycle)
    globals()["_module_teardown"], globals()["_last_collection"] = Stage(4), cycle
    sys._pep788_stress = Stage(6)


def _wrap_shutdown(mark, pause):
    """Stage 1 begins where Py_FinalizeEx looks up threading._shutdown.  gevent's own calls the one it replaces."""
    import threading

    original = threading._shutdown

    def _shutdown(*arguments, **options):
        mark(1)
        pause()
        try:
            return original(*arguments, **options)
        finally:
            pause()

    threading._shutdown = _shutdown


def _wrap_atexit(mark, pause, amplified):
    """Stage 2 begins with the first atexit callback, stage 3 after the last; each callback gets a pause before it."""
    import atexit

    original = atexit.register

    def before():
        mark(2)
        pause()

    def after():
        mark(3)
        pause()

    def register(function, /, *arguments, **options):
        result = original(function, *arguments, **options)
        original(before)  # runs just before it, and atexit.unregister(function) works as ever
        return result

    original(after)  # the first to be registered runs last
    original(before)
    register.__doc__ = original.__doc__
    if amplified:
        atexit.register = register


_begin()
