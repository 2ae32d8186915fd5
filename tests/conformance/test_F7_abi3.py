"""F7: modules built for the limited API work, and use the native functions where there are any."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
from typing import List

import pytest
import support
from f_tools import HERE, child, events, probe

pytestmark = support.needs_limited_api

LIMITED = "0x03090000"
PUBLISHED = support.BUILD / "abi3-made-by-3.9"


def own_headers() -> pathlib.Path:
    """The oldest limited API, compiled with the headers of the interpreter under test."""
    return probe("f_abi3", limited=LIMITED)


def made_by_39() -> pathlib.Path:
    """One file for all versions, compiled with the headers of 3.9.

    A matrix run on 3.9 leaves it in the build directory for the others; otherwise PEP788_TEST_HEADERS39, or
    a python3.9 on the PATH, says where those headers are.
    """
    name = f"{_content()}/f_abi3.abi3.so"
    if sys.version_info[:2] == (3, 9):
        built = own_headers() / "f_abi3.abi3.so"
        (PUBLISHED / name).parent.mkdir(parents=True, exist_ok=True)
        scratch = PUBLISHED / f"{name}.{os.getpid()}"
        shutil.copy(built, scratch)
        scratch.replace(PUBLISHED / name)
    elif not (PUBLISHED / name).exists():
        _compile_with_39(PUBLISHED / name)
    return (PUBLISHED / name).parent


def _content() -> str:
    text = (support.INCLUDE / "pep788.h").read_bytes() + (HERE / "f_probe.c").read_bytes()
    return hashlib.sha256(text + (b"always" if support.ALWAYS else b"")).hexdigest()[:16]


def _headers_of(name: str) -> str:
    """Empty if there is none, or (a version manager's shim) it does not run."""
    python = shutil.which(name)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    answer = subprocess.run(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) if python else None
    return answer.stdout.strip() if answer is not None and answer.returncode == 0 else ""


def _compile_with_39(target: pathlib.Path) -> None:
    include = os.environ.get("PEP788_TEST_HEADERS39") or _headers_of("python3.9")
    if not include:
        pytest.skip("needs the headers of 3.9: PEP788_TEST_HEADERS39 or a python3.9 on the PATH (make test-all does it)")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = support.compile_command(defines=["MODULE=f_abi3", f"Py_LIMITED_API={LIMITED}"])
    own = command.index("-isystem")
    command[own:] = ["-isystem", include, "-shared", "-fPIC", str(HERE / "f_probe.c"), "-o", str(target)]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module", params=["own headers", "made by 3.9"])
def path(request) -> List[pathlib.Path]:
    return [own_headers() if request.param == "own headers" else made_by_39(), HERE]


def run(path, code: str, **options) -> support.Result:
    return child("import atexit, os, sys\nimport f_abi3 as m\n" + textwrap.dedent(code), path=path, **options)


def test_F7_finalization_waits(path) -> None:
    code = """
    m.thread(
        ("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("linger", 100), ("ensure", "r0"),
        ("call", lambda: os.write(1, b"ran\\n")), ("release", "r4"), ("close", "r0"))
    m.wait(1)
    atexit.register(m.set, 2)
    """
    assert events(run(path, code).check()) == ["ran"]


def test_F7_everything_once(path) -> None:
    code = """
    view = m.view()
    guard = m.guard()
    assert m.guards_this(guard)
    token = m.ensure(guard); inner = m.ensure_view(view)
    assert token and inner
    m.release(inner); m.release(token)
    other = m.guard_from_view(view)
    assert other
    m.close(other); m.close(guard)
    main = m.main_view()
    results = m.join(m.thread(
        ("ensure_view", main), ("guard_from_current",), ("view_from_current",), ("call", lambda: True),
        ("ensure", "r1"), ("call", lambda: True), ("release", "r4"), ("close", "r1"), ("view_close", "r2"),
        ("detach",), ("attach", "r9"), ("call", lambda: True), ("release", "r0")))
    assert all(results[:6]) and results[11] == 1, results
    m.view_close(main); m.view_close(view)
    x = type("X", (), {"__del__": lambda self: os.write(1, b"dropped\\n")})()
    t = m.thread(("wait", 3), ("drop", m.view(), x))
    del x
    m.set(3)
    m.join(t)
    """
    assert events(run(path, code).check()) == ["dropped"]


def test_F7_late_callers_are_refused(path) -> None:
    code = """
    class Last:
        def __del__(self, join=m.join, thread=m.thread, view=m.view(), guard=m.guard, write=os.write):
            write(1, b"%d %d\\n" % tuple(join(thread(("guard_from_view", view), ("ensure_view", view)))))
            try:
                guard()
            except RuntimeError as error:
                write(1, b"refused\\n")
    sys.last_of_all = Last()
    """
    assert events(run(path, code).check()) == ["0 0", "refused"]


def test_F7_foreign_threads_attach_while_others_run_python(path) -> None:
    """On 3.9 to 3.11 the limited API cannot tell whose the current thread state is: it must not guess wrong."""
    code = """
    import threading
    view = m.view()
    numbers = [0] * 4
    def count(n):
        numbers[n] += 1
    steps = lambda n: [step for k in range(200) for step in (
        ("ensure_view", view), ("call", lambda: not count(n)), ("release", f"r{3 * k}"))]
    threads = [m.thread(*steps(n)) for n in range(4)]
    while sum(numbers) < 800:
        sum(range(1000))
    for t in threads:
        results = m.join(t)
        assert all(results[0::3]) and all(results[1::3])
    """
    run(path, code).check()


def test_F7_subinterpreters(path) -> None:
    """The shared-GIL kind; an abi3 module for 3.9 cannot say that it supports the other."""
    code = """
    import f_sub
    number = f_sub.create("legacy")
    f_sub.run(number, '''if True:
        import atexit, os, f_abi3 as m
        m.thread(
            ("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("linger", 100), ("ensure", "r0"),
            ("call", lambda: os.write(1, b"sub\\\\n")), ("release", "r4"), ("close", "r0"))
        m.wait(1)
        atexit.register(m.set, 2)
    ''')
    f_sub.destroy(number)
    m.mark_finalized()
    """
    assert events(run(path, code).check()) == ["sub"]


def test_F7_beside_a_module_that_is_not_abi3(path) -> None:
    """Guards of one are closed by the other. On 3.15 this shows that the abi3 module took the native functions:
    a guard of ours, given to the native PyInterpreterGuard_Close, would be freed as what it is not."""
    code = """
    import f_probe
    assert f_probe.native == NATIVE
    first, second, third = m.guard(), f_probe.guard(), m.guard()  # the third: until it is written
    m.thread(
        ("set", 1), ("wait", 2), ("linger", 50), ("close", second), ("write", "closed\\n"), ("close", third))
    m.wait(1)
    f_probe.thread(("ensure", first), ("call", lambda: True), ("release", "r0"), ("set", 1), ("wait", 2), ("close", first))
    f_probe.wait(1)
    atexit.register(m.set, 2)
    atexit.register(f_probe.set, 2)
    """.replace("NATIVE", str(int(support.NATIVE)))
    assert events(run([*path, probe()], code).check()) == ["closed"]


def test_F7_no_native_name_is_needed_to_load(path) -> None:
    """The dynamic linker of 3.9 to 3.14 would refuse a module that asks for PyInterpreterGuard_FromCurrent."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm")
    (file,) = path[0].glob("*.so")
    out = subprocess.run([nm, "-D", "--undefined-only", str(file)], check=True, stdout=subprocess.PIPE, text=True)
    names = [line.split()[-1].split("@")[0] for line in out.stdout.splitlines()]
    assert "PyModuleDef_Init" in names
    assert not [n for n in names if n.startswith(("PyInterpreterGuard_", "PyInterpreterView_"))]
    stable = ("_SizeT", "Struct", "_Py_Dealloc")  # what public names of the limited API expand to
    assert not [n for n in names if n.startswith("_Py") and not n.endswith(stable)]


@support.ours_only("reports are ours")
def test_F7_reports(path) -> None:
    result = run(path, "m.guard()", env={"PEP788_GIVE_UP_AFTER": "0.2"}).check()
    assert "f_abi3" in result.err
