"""N1: a program that imports a module of ours and does not use it behaves as before."""

from __future__ import annotations

import re
import sys
import textwrap

import pytest
import support
from f_tools import HERE, child, events, probe


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_N1_importing_adds_no_thread_and_no_signal_handler() -> None:
    code = """
    import os, signal
    def state():
        with open("/proc/self/status") as status:
            wanted = ("Threads:", "SigBlk:", "SigIgn:", "SigCgt:")
            kernel = [line for line in status if line.startswith(wanted)]
        return kernel, [signal.getsignal(s) for s in signal.valid_signals()]
    before = state()
    import f_probe
    assert state() == before, (before, state())
    f_probe.close(f_probe.guard())
    assert state() == before, (before, state())
    """
    child(code).check()


def test_N1_importing_imports_nothing_else() -> None:
    """Not even threading, which changes what finalization does; atexit is built in."""
    code = """
    import sys
    before = set(sys.modules)
    import f_probe
    added = set(sys.modules) - before - {"f_probe"}
    assert added <= {"atexit"}, added
    f_probe.close(f_probe.guard())
    assert "threading" not in sys.modules
    """
    argv = [sys.executable, "-S", "-E", "-s", "-c", f"import sys; sys.path.insert(0, {str(probe())!r})"]
    argv[-1] += "\n" + textwrap.dedent(code)
    support.run_child(argv).check()


def test_N1_no_name_is_added_to_builtins_sys_or_threading() -> None:
    code = """
    import builtins, sys, threading, atexit
    before = [dict(vars(m)) for m in (builtins, sys, threading, atexit)]
    import f_probe
    f_probe.close(f_probe.guard())
    after = [dict(vars(m)) for m in (builtins, sys, threading, atexit)]
    assert [d.keys() for d in before] == [d.keys() for d in after]
    for old, new in zip(before, after):
        for name in old:
            assert old[name] is new[name] or name == "path_importer_cache", name
    """
    child(code).check()


# What programs do at their end; the output, status and error output must be the same with and without the import.
PROGRAMS = {
    "atexit order": """
        for n in range(5):
            atexit.register(os.write, 1, b"%d" % n)
        """,
    "atexit before and after": """
        atexit.register(os.write, 1, b"first")
        IMPORT
        atexit.register(os.write, 1, b"last")
        """,
    "an exception in a callback": """
        atexit.register(os.write, 1, b"runs anyway")
        atexit.register(lambda: 1 / 0)
        """,
    "SystemExit in a callback": """
        def leave():
            raise SystemExit(3)
        atexit.register(leave)
        """,
    "a callback registered by a callback": """
        def late():
            atexit.register(os.write, 1, b"late")
            os.write(1, b"callback")
        atexit.register(late)
        """,
    "unregister": """
        def callback():
            os.write(1, b"called")
        atexit.register(callback)
        atexit.register(callback)
        atexit.unregister(callback)
        """,
    "_run_exitfuncs by hand": """
        atexit.register(os.write, 1, b"once")
        atexit._run_exitfuncs()
        os.write(1, b"|")
        """,
    "_clear": """
        atexit.register(os.write, 1, b"never")
        atexit._clear()
        """,
    "sys.exit": "sys.exit(4)",
    "an exception": "raise KeyError('at the end')",
    "os._exit": "atexit.register(os.write, 1, b'never'); os._exit(3)",
    "a daemon thread": """
        import threading
        started = threading.Event()
        def run():
            started.set()
            threading.Event().wait()
        threading.Thread(target=run, daemon=True).start()
        started.wait()
        """,
    "a thread that outlives the main one": """
        import threading
        go = threading.Event()
        def run():
            go.wait()
            os.write(1, b"thread")
        threading.Thread(target=run).start()
        atexit.register(os.write, 1, b"atexit")
        go.set()
        """,
    "a thread started by a callback": """
        import threading
        done = threading.Event()
        def callback():
            try:
                threading.Thread(target=lambda: (os.write(1, b"thread"), done.set())).start()
            except RuntimeError as error:
                os.write(1, b"refused")
                return
            done.wait()
        atexit.register(callback)
        """,
    "concurrent.futures": """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        for n in range(3):
            pool.submit(os.write, 1, b".")
        """,
    "destructors": """
        class Last:
            def __init__(self, text):
                self.text = text
            def __del__(self, write=os.write):
                write(1, self.text)
        of_module = Last(b"module ")
        sys.of_sys = Last(b"sys ")
        """,
    "fork": """
        pid = os.fork()
        atexit.register(os.write, 1, b"atexit ")
        if pid:
            os.waitpid(pid, 0)
        """,
    "a subinterpreter": """
        import f_sub
        number = f_sub.create()
        f_sub.run(number, "import atexit, os; atexit.register(os.write, 1, b'sub ')")
        f_sub.destroy(number)
        atexit.register(os.write, 1, b"main")
        """,
    "SIGINT": "import signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)",
    "SIGINT in a callback": """
        import signal, time
        def callback():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        atexit.register(os.write, 1, b"the other callback")
        atexit.register(callback)
        """,
    "tracemalloc": "import tracemalloc; tracemalloc.start()",
    "multiprocessing": """
        import multiprocessing
        atexit.register(os.write, 1, b"atexit ")
        process = multiprocessing.get_context("fork").Process(target=os.write, args=(1, b"child "))
        process.start()
        process.join()
        os.write(1, b"%d " % process.exitcode)
        """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_N1_programs_end_as_without_us(name: str) -> None:
    body = textwrap.dedent(PROGRAMS[name])
    results = []
    for statement in ("pass", "import f_probe", "import f_probe; f_probe.close(f_probe.guard())"):
        # The same number of lines, so that tracebacks are equal to the byte.
        if "IMPORT" in body:
            code = "import atexit, os, sys\npass\n" + body.replace("IMPORT", statement)
        else:
            code = f"import atexit, os, sys\n{statement}\n" + body
        result = support.run_child(code, path=[probe(), HERE], timeout=30)
        assert not result.hung, result.describe(statement)
        results.append((result.returncode, result.out, _without_addresses(result.err)))
    assert results[0] == results[1] == results[2]


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def test_N1_no_warnings_in_development_mode() -> None:
    code = "import f_probe as m; m.close(m.guard()); m.view_close(m.view())"
    argv = [sys.executable, "-X", "dev", "-W", "error", "-X", "faulthandler", "-c", code]
    assert support.run_child(argv, path=[probe()]).check().err == ""


@pytest.mark.skipif(not support.DEBUG_BUILD, reason="needs a debug build's reference counts")
def test_N1_guards_and_views_leave_no_references() -> None:
    code = """
    import gc, sys
    import f_probe as m
    def use():
        view = m.view(); guard = m.guard(); token = m.ensure(guard)
        m.release(token); m.close(guard); m.view_close(view); m.view_close(m.main_view())
        m.release(m.ensure_view(keep)); m.join(m.thread(("ensure_view", keep), ("release", "r0")))
    keep = m.view()
    def total():
        gc.collect()
        return sys.gettotalrefcount()
    for _ in range(20):
        use()
    before = total()
    for _ in range(100):
        use()
    growth = total() - before
    assert abs(growth) < 50, growth
    """
    child(code).check()


def test_N1_views_of_the_same_interpreter_do_not_grow_it() -> None:
    """Opening and closing a hundred thousand guards and views leaves the process as large as it was."""
    pytest.importorskip("resource")
    code = """
    import resource, sys
    import f_probe as m
    def use(count):
        for _ in range(count):
            m.view_close(m.view()); m.close(m.guard())
    use(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    use(100000)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(growth // 1024 if sys.platform == "darwin" else growth)  # bytes there, KiB elsewhere
    """
    lines = events(child(code).check())
    assert int(lines[0]) < 2000  # KiB; a view of 16 bytes that leaked each time would be 1600 KiB and a guard more
