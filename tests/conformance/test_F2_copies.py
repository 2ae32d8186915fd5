"""F2: several modules, each with its own copy of the header, in one process."""

from __future__ import annotations

import hashlib
import pathlib
import re
import sys
import textwrap
from typing import List

import pytest
import support
from f_tools import HERE, child, events, probe
from g_tools import rebinds

NAMES = ("f_one", "f_two", "f_other")


def other_version() -> pathlib.Path:
    """A module whose header says it is another version, as when two projects vendored it years apart."""
    header = (support.INCLUDE / "pep788.h").read_text()
    header, texts = re.subn(r'(#\s*define\s+PEP788_VERSION\s+)"[^"]*"', r'\1"0.9.7"', header)
    header, numbers = re.subn(r"(#\s*define\s+PEP788_VERSION_HEX\s+)\S+", r"\g<1>0x000907F0", header)
    assert (texts, numbers) == (1, 1), "pep788.h does not say its version once"
    folder = support.BUILD / f"f_other-{sys.implementation.cache_tag}-{hashlib.sha256(header.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pep788_other.h").write_text(header)
    source = folder / "f_other.c"
    source.write_text(f'#include "{folder}/pep788_other.h"\n#include "{HERE}/f_probe.c"\n')
    return support.build_extension("f_other", [source], defines=["MODULE=f_other"])


@pytest.fixture(scope="module")
def copies() -> List[pathlib.Path]:
    return [probe("f_one"), probe("f_two"), other_version()]


HEAD = "import atexit, os, sys\nimport f_one, f_two, f_other\nmodules = [f_one, f_two, f_other]\n"


def run(copies: List[pathlib.Path], code: str, **options) -> support.Result:
    return child(HEAD + textwrap.dedent(code), path=[*copies, HERE], **options)


def test_F2_the_copies_are_different_files_and_versions(copies) -> None:
    code = """
    assert len({m.__file__ for m in modules}) == 3
    assert len({m.api() for m in modules}) == 3
    assert f_one.version == f_two.version != f_other.version == "0.9.7"
    """
    run(copies, code).check()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_F2_finalization_waits_for_the_guards_of_every_copy(copies, order) -> None:
    """Each closes after the one before it, so that finalization is seen to wait for one copy alone."""
    code = f"""
    order = {order!r}
    def last_words(name):
        os.write(1, name.encode() + b"\\n")
    threads = []
    for position, index in enumerate(order):
        m = modules[index]
        successor = order[position + 1] if position < 2 else None
        after = lambda s=successor: s is None or modules[s].set(2)
        threads.append(m.thread(
            ("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("linger", 100), ("ensure", "r0"),
            ("call", lambda m=m: last_words(m.__name__)), ("call", after), ("release", "r4"), ("close", "r0")))
    for m in modules:
        m.wait(1)
    atexit.register(modules[order[0]].set, 2)
    """
    assert events(run(copies, code).check()) == [NAMES[index] for index in order]


@pytest.mark.parametrize("maker", NAMES)
@pytest.mark.parametrize("user", NAMES)
def test_F2_guards_and_views_of_one_copy_work_in_another(copies, maker: str, user: str) -> None:
    code = f"""
    a, b = {maker}, {user}
    g, v = a.guard(), a.view()
    assert b.guards_this(g)
    token = b.ensure(g); a.release(token)
    token = a.ensure_view(v); b.release(token)
    other = b.guard_from_view(v)
    assert other
    b.close(g)
    results = b.join(b.thread(("ensure", other), ("call", lambda: os.write(1, b"ran\\n")), ("release", "r0")))
    assert results[:2] == [results[0], 1] and results[0]
    a.close(other)
    b.view_close(v)
    """
    assert events(run(copies, code).check()) == ["ran"]


@pytest.mark.parametrize("inner", NAMES)
@pytest.mark.parametrize("outer", NAMES)
def test_F2_tokens_of_one_copy_released_by_another_on_a_foreign_thread(copies, outer: str, inner: str) -> None:
    """Each copy counts what it has on a thread: here one is left with the Release that is the other's, twice."""
    code = f"""
    a, b = {outer}, {inner}
    view = a.view()
    def cross():
        a.release(b.ensure_view(view))
        os.write(1, b"crossed\\n")
    twice = [("ensure_view", view), ("call", cross), ("release", "r0"),
             ("ensure_view", view), ("call", cross), ("release", "r3"), ("ensure_view", view), ("release", "r6")]
    results = a.join(a.thread(*twice))
    assert all(results[i] for i in (0, 3, 6)), results
    assert len(sys._current_frames()) == 1
    """
    assert events(run(copies, code).check()) == ["crossed"] * 2


def test_F2_a_guard_of_one_copy_closed_by_another_ends_the_wait(copies) -> None:
    code = """
    g = f_one.guard()
    t = f_other.thread(("set", 1), ("wait", 2), ("linger", 100), ("write", "closing\\n"), ("close", g))
    f_other.wait(1)
    atexit.register(f_other.set, 2)
    """
    assert events(run(copies, code).check()) == ["closing"]


@support.ours_only("native 3.15 has no names and no count of its guards")
def test_F2_counts_and_names_cover_every_copy(copies) -> None:
    code = """
    guards = [f_one.guard(), f_one.guard(), f_two.guard(), f_other.guard()]
    for m in modules:
        assert m.guard_count() == 4, (m, m.guard_count())
        # The name is that of the file, unless PEP788_MODULE_NAME says otherwise.
        counts = {name.split(".")[0]: count for name, count in m.modules()}
        assert counts == {"f_one": 2, "f_two": 1, "f_other": 1}, m.modules()
    f_two.close(guards[0])
    assert f_other.guard_count() == 3
    for g in guards[1:]:
        f_one.close(g)
    assert [m.guard_count() for m in modules] == [0, 0, 0]
    """
    run(copies, code).check()


@support.ours_only("4 threads that take guards without pause hang native 3.15.2 (F9)")
def test_F2_all_copies_close_in_one_step(copies) -> None:
    """From the first refusal a thread sees, of whichever copy, every copy refuses: there is no window between them."""
    code = """
    pairs = [(f_one, f_two), (f_two, f_other), (f_other, f_one), (f_one, f_other)]
    threads = [(a, a.thread(("set", 1), ("churn_pair", a.view(), b.api()))) for a, b in pairs]
    for m in modules:
        m.wait(1)
    class Last:
        def __del__(self, threads=[(m.join, t) for m, t in threads], write=os.write):
            for join, t in threads:
                write(1, b"%d\\n" % join(t)[1])
    sys.last_of_all = Last()
    """
    for _ in range(support.tries(5)):
        assert events(run(copies, code).check()) == ["1"] * 4


def test_F2_a_copy_first_imported_while_finalization_waits(copies) -> None:
    code = """
    import atexit, os, sys, f_one
    def late():
        import f_two
        g = f_two.guard()
        t = f_two.thread(("set", 1), ("wait", 2), ("linger", 100), ("write", "closing\\n"), ("close", g))
        f_two.wait(1)
        f_two.set(2)
    f_one.thread(
        ("guard_from_view", f_one.view()), ("set", 1), ("wait", 2), ("ensure", "r0"), ("call", late),
        ("release", "r3"), ("close", "r0"))
    f_one.wait(1)
    atexit.register(f_one.set, 2)
    """
    assert events(child(code, path=copies).check()) == ["closing"]


def test_F2_a_copy_first_imported_by_an_atexit_callback(copies) -> None:
    """Also with no other copy there: nothing of ours was registered when the callbacks began to run."""
    code = """
    import atexit, os, sys
    def late():
        import f_two
        g = f_two.guard()
        t = f_two.thread(("set", 1), ("wait", 2), ("linger", 100), ("write", "closing\\n"), ("close", g))
        f_two.wait(1)
        f_two.set(2)
    atexit.register(late)
    if {first}:
        import f_one
    """
    for first in (True, False):
        assert events(child(code.format(first=first), path=copies).check()) == ["closing"]


@pytest.mark.parametrize("config", ["legacy", "isolated"])
def test_F2_copies_in_subinterpreters(copies, config: str) -> None:
    """Each interpreter has guards of its own, also when different copies are first imported in different ones."""
    code = f"""
    import f_sub
    number = f_sub.create("{config}")
    f_sub.run(number, '''if True:
        import os, sys
        sys.path = {[str(path) for path in copies]!r} + sys.path
        import f_two, f_other, atexit
        t = f_other.thread(
            ("guard_from_view", f_two.view()), ("set", 1), ("wait", 2), ("linger", 100), ("ensure", "r0"),
            ("call", lambda: os.write(1, b"sub\\\\n")), ("release", "r4"), ("close", "r0"))
        f_other.wait(1)
        atexit.register(f_other.set, 2)
    ''')
    f_sub.destroy(number)
    f_other.mark_finalized()
    os.write(1, b"destroyed\\n")
    """
    assert events(run(copies, code).check()) == ["sub", "destroyed"]


@pytest.mark.parametrize("config", ["legacy", "isolated"])
def test_F2_a_copy_that_only_a_subinterpreter_has_guards_main(copies, config: str) -> None:
    """The first copy joins the subinterpreter to main; the others must find main as well, and main waits for them.

    RED before on 3.9, 3.11 and 3.14: "not initialized" from the second copy on.
    """
    code = f"""
    import os, f_sub
    number = f_sub.create("{config}")
    f_sub.run(number, '''if True:
        import os, f_one, f_two, f_other
        for m in (f_one, f_two, f_other):
            view = m.main_view()
            guard = m.guard_from_view(view)
            assert guard, (m.__name__, m.failure_name(m.last_failure()))
            m.close(guard)
            m.thread(
                ("guard_from_view", view), ("set", 1), ("linger", 100), ("ensure", "r0"), ("write", "attached\\\\n"),
                ("release", "r3"), ("close", "r0"))
            m.wait(1)
    ''')
    f_sub.destroy(number)
    os.write(1, b"destroyed\\n")
    """
    lines = events(child(code, path=[*copies, HERE]).check())
    assert sorted(lines) == ["attached"] * 3 + ["destroyed"]


@rebinds
@pytest.mark.parametrize("config", ["legacy", "isolated"])
def test_F2_PyGILState_nests_in_a_copy_that_only_a_subinterpreter_has(copies, config: str) -> None:
    """RED before on 3.9 and 3.11: the second copy had not looked for CPython's key and waited for its own GIL."""
    code = f"""
    import os, f_sub
    number = f_sub.create("{config}")
    f_sub.run(number, '''if True:
        import os, f_one, f_two, f_other
        for m in (f_one, f_two, f_other):
            assert m.nested_gilstate(m.view())
            os.write(1, m.__name__.encode() + b"\\\\n")
    ''')
    f_sub.destroy(number)
    """
    assert events(child(code, path=[*copies, HERE]).check()) == list(NAMES)


@pytest.mark.skipif(not support.NATIVE, reason="needs a native module in the process: 3.15+ without PEP788_ALWAYS")
@pytest.mark.parametrize("first", ["ours", "native"])
def test_F2_ours_beside_native_ones(first: str) -> None:
    """Guards of a PEP788_ALWAYS module and of a native one: both are waited for, whichever closes last."""
    path = [probe("f_ours", defines=["PEP788_ALWAYS"]), probe("f_native")]
    code = f"""
    import atexit, os, sys, f_ours, f_native
    assert (f_ours.native, f_native.native) == (0, 1)
    modules = [f_ours, f_native] if "{first}" == "ours" else [f_native, f_ours]
    for m, after in zip(modules, (lambda: modules[1].set(2), lambda: True)):
        m.thread(
            ("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("linger", 100), ("ensure", "r0"),
            ("call", lambda m=m: os.write(1, m.__name__.encode() + b"\\n")), ("call", after), ("release", "r4"),
            ("close", "r0"))
        m.wait(1)
    atexit.register(modules[0].set, 2)
    """
    order = ["f_ours", "f_native"]
    assert events(child(code, path=path).check()) == (order if first == "ours" else order[::-1])
