"""`pep788 shield`: modules that know nothing of pep788, protected as they are.

RED without it is in test_shutdown.py for the scenarios (`test_old_api_...`), and here beside each GREEN for the rest.
"""

from __future__ import annotations

import os
import pathlib
import sys
import textwrap
from typing import Callable, List

import pytest
import support
from installed import build_package
import test_shutdown as shutdown

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a shield on Linux only")

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"


@pytest.fixture(scope="module")
def shield() -> List[pathlib.Path]:
    """Folders for PYTHONPATH that put the shield up at start-up if PEP788_SHIELD=1."""
    package = build_package()
    return [package / "pep788" / "shield" / "_site", package]


@pytest.fixture(scope="module")
def unmodified() -> pathlib.Path:
    return support.build_extension("unmodified", [PROGRAMS / "unmodified.cpp"], language="c++")


@pytest.fixture
def run(shield: List[pathlib.Path], unmodified: pathlib.Path) -> Callable[..., support.Result]:
    """Run Python code in a child that can import `unmodified`, with the shield up or not."""

    def run(code: str, up: bool = True, **env: str) -> support.Result:
        path = [*shield, unmodified]
        return support.run_child(textwrap.dedent(code), path=path, env={"PEP788_SHIELD": "1" if up else "0", **env})

    return run


# --- the scenarios of test_shutdown.py, old API, nothing recompiled -------------------------------------------


SCENARIOS = [
    "A ctypes callback, noexcept std::thread pool",
    "B RAII below a noexcept frame",
    "B thread states made by the library",
    shutdown.EMBEDDED,
]


@pytest.mark.parametrize("name", SCENARIOS)
def test_unmodified_code_neither_crashes_nor_loses_a_callback(
    name: str, shield: List[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    seen = shutdown.observe(name, "old", tmp_path, shield=shield)
    assert set(seen.outcomes) <= {"ok", "parked"}, f"{dict(seen.outcomes)}\n{seen.complaint}"


def test_code_that_was_ported_gets_its_answer_as_before(shield: List[pathlib.Path], tmp_path: pathlib.Path) -> None:
    seen = shutdown.observe("B RAII below a noexcept frame", "new", tmp_path, shield=shield)
    assert seen.clean(), f"{dict(seen.outcomes)}\n{seen.complaint}"


RETURNS_LATE = """
    import threading, time, unmodified

    unmodified.linger_at_exit()
    threading.Thread(target=unmodified.work, daemon=True).start()
    unmodified.set_finalizes()
"""


@pytest.mark.skipif(not shutdown.KILLS, reason="3.13.8 and later stop the thread instead of unwinding it")
def test_a_daemon_thread_is_unwound_through_noexcept_without_the_shield(run: Callable[..., support.Result]) -> None:
    assert run(RETURNS_LATE, up=False).signal is not None


def test_a_daemon_thread_that_returns_late_is_parked(run: Callable[..., support.Result]) -> None:
    run(RETURNS_LATE).check()


CALLS_LATE = """
    import unmodified

    unmodified.call_late(print)
"""


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="3.15 hangs the thread by itself")
def test_a_call_after_the_end_crashes_without_the_shield(run: Callable[..., support.Result]) -> None:
    assert run(CALLS_LATE, up=False).signal is not None


def test_a_call_after_the_end_is_parked(run: Callable[..., support.Result]) -> None:
    assert run(CALLS_LATE).check(7).out == ""


def test_a_callback_in_flight_ends_first(run: Callable[..., support.Result]) -> None:
    code = """
        import threading, time, unmodified

        inside = threading.Event()

        def callback():
            inside.set()
            time.sleep(0.3)
            print("end of the callback", flush=True)

        unmodified.call_soon(callback)
        inside.wait()
    """
    assert run(code).check().out == "end of the callback\n"


def test_a_callback_in_a_state_of_its_own_ends_first_though_it_lets_others_run(run: Callable[..., support.Result]) -> None:
    code = """
        import threading, unmodified

        inside = threading.Event()

        def callback():
            inside.set()
            unmodified.rest()
            print("end of the callback", flush=True)

        unmodified.call_own_state(callback)
        inside.wait()
    """
    assert run(code).check().out == "end of the callback\n"


@pytest.mark.parametrize("how", ["call_kept_state", "call_as_cffi", "call_and_forget"])
def test_a_callback_that_is_over_does_not_hold_the_end(run: Callable[..., support.Result], how: str) -> None:
    code = f"""
        import threading, time, unmodified

        done = threading.Semaphore(0)
        unmodified.{how}(done.release)
        done.acquire()
        if "{how}" == "call_as_cffi":
            done.acquire()
    """
    result = run(code).check()
    assert "gave up" not in result.err


CLOSURE = """
    import ctypes, os

    class Callback(ctypes._CFuncPtr):
        _argtypes_, _restype_, _flags_ = (), None, 1

        def __del__(self, write=os.write):
            write(1, b"freed")

    callback = Callback(lambda: None)
"""


@pytest.mark.parametrize("up, out", [(False, "freed"), (True, "")])
def test_the_code_of_a_ctypes_callback_outlives_the_interpreter(
    run: Callable[..., support.Result], up: bool, out: str
) -> None:
    assert run(CLOSURE, up=up).check().out == out


@pytest.mark.parametrize("up", [False, True])
def test_a_library_is_not_unloaded_under_its_threads_at_the_end(
    run: Callable[..., support.Result], unmodified: pathlib.Path, up: bool
) -> None:
    (path,) = unmodified.iterdir()
    code = f"""
        import _ctypes, os

        class Library:  # has all it needs itself: modules are being cleared
            def __init__(self):
                self.handle, self.dlclose, self.os = _ctypes.dlopen({str(path)!r}, 2), _ctypes.dlclose, vars(os).copy()

            def __del__(self):
                self.dlclose(self.handle)
                maps, seen = self.os["open"]("/proc/self/maps", 0), b""
                while chunk := self.os["read"](maps, 1 << 20):
                    seen += chunk
                self.os["write"](1, b"%d\\n" % ({path.name.encode()!r} in seen))

        library = Library()
    """
    assert run(code, up=up).check().out == f"{up:d}\n"


# --- the limit ------------------------------------------------------------------------------------------------

STUCK = """
    import threading, unmodified

    inside = threading.Event()

    def callback():
        inside.set()
        threading.Event().wait()

    unmodified.call_soon(callback)
    inside.wait()
"""


def test_draining_has_a_limit_and_says_who_was_inside(run: Callable[..., support.Result], unmodified: pathlib.Path) -> None:
    result = run(STUCK, PEP788_SHIELD_LIMIT="0.3").check()
    assert result.err.count("gave up waiting after 0.3 s") == 1
    assert "1 of module pep788.shield" in result.err
    (line,) = [line for line in result.err.splitlines() if "called by" in line]
    assert str(unmodified) in line and "native id" in line


def test_the_limit_of_the_environment_is_not_replaced(run: Callable[..., support.Result]) -> None:
    result = run(STUCK, PEP788_GIVE_UP_AFTER="0.2").check()
    assert "gave up waiting after 0.2 s" in result.err


@pytest.mark.parametrize("limit", ["-1", "nan", "soon"])
def test_a_limit_that_is_none_turns_the_shield_off_and_says_so(run: Callable[..., support.Result], limit: str) -> None:
    result = run("print('ran')", PEP788_SHIELD_LIMIT=limit).check()
    assert result.out == "ran\n"
    assert result.err.startswith("pep788: shield is off: ") and limit in result.err


# --- on and off -----------------------------------------------------------------------------------------------

SLOTS = """
    import sys, unmodified, _ctypes
    from pep788 import shield, _shield
    from pep788.shield import _elf, _patch

    def slots():
        found = {}
        for base, name, headers, count in _shield.objects(0)[1]:
            if not _shield.pin(name, base) and name:
                continue
            segments = _elf.segments_of(_shield.read(headers, count * _elf.PROGRAM_HEADER.size), base)
            image = _elf.Image(base, segments, _shield.read, 4096)
            for slot in _elf.find_slots(_elf.Dynamic(image), list(_shield.functions), _elf.MACHINES[_patch.os.uname().machine]):
                found[name, slot.symbol, slot.address] = _shield.read(slot.address, 8)
        return found

    def protections():
        with open("/proc/self/maps") as maps:
            return [line.split()[:2] + line.split()[5:] for line in maps if ".so" in line or "python" in line]
"""


def test_disable_restores_every_slot_and_every_protection(run: Callable[..., support.Result]) -> None:
    result = run(
        SLOTS
        + """
    before, pages = slots(), protections()
    shield.enable()
    during = slots()
    changed = {key for key in before if during[key] != before[key]}
    print(sorted({symbol for _, symbol, _ in changed}))
    assert len(changed) == sum(entry.protected for entry in shield.report().entries), shield.report()
    assert protections() == pages
    assert shield.disable() and not shield.is_enabled()
    assert slots() == before
    assert protections() == pages
    shield.enable()
    assert slots() == during
    """,
        up=False,
    ).check()
    for symbol in ("PyGILState_Ensure", "PyGILState_Release", "pthread_exit"):
        assert repr(symbol) in result.out


def test_without_it_nothing_is_touched(run: Callable[..., support.Result]) -> None:
    code = """
        import importlib.machinery, sys
        before = importlib.machinery.ExtensionFileLoader.create_module
        import pep788.shield
        assert not pep788.shield.is_enabled()
        assert importlib.machinery.ExtensionFileLoader.create_module is before
        assert "pep788._shield" not in sys.modules
    """
    run(code, up=False).check()


def test_disable_takes_its_limit_and_its_hook_along_but_no_others(run: Callable[..., support.Result]) -> None:
    code = """
        from importlib.machinery import ExtensionFileLoader as Loader
        from pep788 import _shield, shield

        own = Loader.create_module
        shield.enable(limit=3)
        assert _shield.set_limit(3) == 3
        shield.disable()
        assert Loader.create_module is own
        assert _shield.set_limit(-1) == -1

        shield.enable()
        ours = Loader.create_module
        Loader.create_module = theirs = lambda loader, spec: ours(loader, spec)
        shield.disable()
        assert Loader.create_module is theirs
        shield.enable()
        assert Loader.create_module is theirs
        import unmodified
        assert any("unmodified" in entry.object for entry in shield.report().entries)
    """
    run(code, up=False).check()


# A callback of a native thread that is inside until `go` is set.
IN_FLIGHT = """
import threading, unmodified
from pep788 import shield

go, inside, done = threading.Event(), threading.Event(), threading.Event()

def callback():
    inside.set()
    go.wait()
    done.set()

unmodified.call_soon(callback)
inside.wait()
"""


def test_disable_waits_for_callbacks_in_flight(run: Callable[..., support.Result]) -> None:
    code = """
        assert not shield.disable(wait=0.05)
        shield.enable()
        unmodified.call_soon(callback)
        go.set()
        done.wait()
        assert shield.disable()
    """
    run(IN_FLIGHT + textwrap.dedent(code)).check()


def test_on_and_off_while_threads_run_through_the_slots(run: Callable[..., support.Result]) -> None:
    code = """
        import threading, unmodified
        from pep788 import shield

        ways = [unmodified.call_soon, unmodified.call_own_state]
        stop, ended = threading.Event(), threading.Semaphore(0)

        def again(way):
            if stop.is_set():
                ended.release()
            else:
                way(lambda: again(way))

        for way in ways * 2:
            way(lambda way=way: again(way))
        for _ in range(20):
            assert shield.disable()
            shield.enable()
        stop.set()
        for _ in ways * 2:
            ended.acquire()
    """
    assert "gave up" not in run(code).check().err


def test_modules_that_are_imported_later_are_protected_before_they_are_executed(run: Callable[..., support.Result]) -> None:
    code = """
        from pep788 import shield

        def protected():
            report = shield.report()
            return {entry.symbol for entry in report.entries if "unmodified" in entry.object and entry.protected}

        assert not protected()
        import unmodified
        assert protected() >= {"PyGILState_Ensure", "PyThreadState_New", "PyEval_RestoreThread"}, shield.report()
    """
    run(code).check()


def test_the_report_names_objects_symbols_and_the_interpreter(run: Callable[..., support.Result]) -> None:
    result = run("import unmodified", PEP788_SHIELD_REPORT="1").check()
    assert result.err.startswith("pep788: shield on: ")
    assert "unmodified" in result.err and "protected: PyGILState_Ensure (" in result.err
    assert "interpreter: /" in result.err


def test_a_thread_that_went_in_before_comes_out_after(run: Callable[..., support.Result]) -> None:
    code = """
        shield.enable()
        go.set()
        done.wait()
        unmodified.call_soon(done.set)
    """
    run(IN_FLIGHT + textwrap.dedent(code), up=False).check()


# --- together with everything else ----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_child_of_a_fork_ends_while_the_parent_is_inside(run: Callable[..., support.Result]) -> None:
    code = """
        import os, threading, unmodified, warnings

        warnings.simplefilter("ignore", DeprecationWarning)
        go, inside = threading.Event(), threading.Event()

        def callback():
            inside.set()
            go.wait()

        unmodified.call_soon(callback)
        inside.wait()
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            go.set()
            assert status == 0, status
        else:
            done = threading.Event()
            unmodified.call_soon(done.set)
            done.wait()
    """
    run(code).check()


def test_gevent_with_everything_patched(run: Callable[..., support.Result]) -> None:
    pytest.importorskip("gevent")
    code = """
        from gevent import monkey

        monkey.patch_all()
        import gevent, os, unmodified

        reader, writer = os.pipe()
        read, sleep = monkey.get_original("os", "read"), monkey.get_original("time", "sleep")

        def callback():
            os.write(writer, b"x")
            sleep(0.2)
            os.write(1, b"end of the callback")

        unmodified.call_soon(callback)
        read(reader, 1)
        gevent.joinall([gevent.spawn(gevent.sleep, 0.001) for _ in range(5)])
    """
    assert run(code).check().out == "end of the callback"


def test_subinterpreters_neither_fail_nor_enable_it(run: Callable[..., support.Result]) -> None:
    code = """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        from pep788 import shield

        new = interpreters.create()
        source = '''if True:
            import pep788.shield as shield
            try:
                shield.enable()
            except shield.ShieldError as error:
                print(error, flush=True)
            else:
                raise AssertionError
        '''
        failure = getattr(interpreters, "exec", None) or interpreters.run_string
        assert failure(new, source) is None
        interpreters.destroy(new)
        assert shield.is_enabled()
    """
    assert run(code).check().out == "enable the shield in the main interpreter: it covers subinterpreters, too\n"


def test_guards_of_python_code_and_the_shield_are_waited_for_together(run: Callable[..., support.Result]) -> None:
    code = """
        import pep788, threading, time, unmodified

        inside = threading.Barrier(3)

        def callback():
            inside.wait()
            time.sleep(0.1)
            with pep788.guard():
                print("callback", flush=True)

        def daemon():
            with pep788.guard():
                inside.wait()
                time.sleep(0.2)
                print("daemon", flush=True)

        unmodified.call_soon(callback)
        threading.Thread(target=daemon, daemon=True).start()
        inside.wait()
    """
    assert run(code).check().out == "callback\ndaemon\n"


def test_daemon_threads_that_never_rest_do_not_hold_the_end(run: Callable[..., support.Result]) -> None:
    code = """
        import threading, time, unmodified

        def loop():
            while True:
                time.sleep(0)

        for _ in range(4):
            threading.Thread(target=loop, daemon=True).start()
        time.sleep(0.05)
    """
    result = run(code).check()
    assert "gave up" not in result.err
