"""F5: a reference can be dropped on any thread at any time."""

from __future__ import annotations

import textwrap

import pytest
import support
from f_tools import HERE, child, events, probe

NOISY = """
import os, sys, threading
import f_probe as m
class Noisy:
    def __init__(self, name):
        self.name = name
    def __del__(self, write=os.write):
        write(1, b"del %s\\n" % self.name.encode())
view = m.view()
"""


def noisy(code: str) -> support.Result:
    return child(NOISY + textwrap.dedent(code), path=[probe(), HERE]).check()


def test_F5_attached() -> None:
    """`drop` gives away one reference of its own, so the object goes when the name does."""
    code = """
    x = Noisy("x")
    before = sys.getrefcount(x)
    m.drop(view, x)
    assert sys.getrefcount(x) == before
    os.write(1, b"dropped\\n")
    del x
    os.write(1, b"end\\n")
    """
    assert events(noisy(code)) == ["dropped", "del x", "end"]


def test_F5_on_a_foreign_thread() -> None:
    code = """
    x = Noisy("x")
    t = m.thread(("wait", 1), ("drop", view, x), ("failure",), ("write", "dropped\\n"))
    del x
    os.write(1, b"still here\\n")
    m.set(1)
    m.join(t)
    """
    assert events(noisy(code)) == ["still here", "del x", "dropped"]


def test_F5_the_view_says_in_which_interpreter() -> None:
    code = """
    import f_sub
    number = f_sub.create()
    read, write = os.pipe()
    f_sub.run(number, f'''if True:
        import os, sys
        import f_probe as m
        sys.here = "sub"
        class Noisy:
            def __del__(self):
                os.write(1, b"del in %s\\\\n" % getattr(sys, "here", "main").encode())
        kept = Noisy()
        t = m.thread(("wait", 1), ("drop", m.view(), kept), ("set", 2))
        del kept
        os.write({write}, b"%d" % t)
    ''')
    t = int(os.read(read, 100))
    m.set(1)
    m.join(t)
    f_sub.destroy(number)
    os.write(1, b"main\\n")
    """
    assert events(noisy(code)) == ["del in sub", "main"]


def test_F5_an_exception_that_is_set_stays_set() -> None:
    """A destructor that runs Python code must not lose the caller's exception: Py_DECREF keeps it, and so do we."""
    code = """
    class Raises:
        def __del__(self):
            raise RuntimeError("reported, not raised")
    sys.unraisablehook = lambda unraisable: os.write(1, b"reported\\n")
    t = m.thread(("drop", view, Raises()))
    m.join(t)
    try:
        raise KeyError("mine")
    except KeyError:
        x = Raises()
        m.drop(view, x)
        del x
        assert isinstance(sys.exc_info()[1], KeyError)
    """
    assert events(noisy(code)) == ["reported", "reported"]


def test_F5_a_destructor_that_drops_another() -> None:
    code = """
    class Chain:
        def __init__(self, next):
            self.next = next
        def __del__(self):
            m.drop(view, self.next)
            os.write(1, b"link\\n")
    chain = Noisy("end")
    for _ in range(3):
        chain = Chain(chain)
    t = m.thread(("wait", 1), ("drop", view, chain))
    del chain
    m.set(1)
    m.join(t)
    """
    assert events(noisy(code)) == ["link"] * 3 + ["del end"]


def test_F5_while_another_thread_is_attached_and_busy() -> None:
    code = """
    done = []
    def busy():
        while not done:
            pass
    worker = threading.Thread(target=busy)
    worker.start()
    objects = [Noisy(str(n)) for n in range(5)]
    threads = [m.thread(("wait", 1), ("drop", view, x)) for x in objects]
    objects.clear()
    m.set(1)
    for t in threads:
        m.join(t)
    done.append(1)
    worker.join()
    """
    assert sorted(events(noisy(code))) == [f"del {n}" for n in range(5)]


def test_F5_too_late_is_a_leak() -> None:
    """In module teardown nothing of it runs, and nothing crashes: the object stays."""
    code = """
    class Last:
        def __del__(self, join=m.join, thread=m.thread, view=view, kept=Noisy("kept"), write=os.write):
            join(thread(("drop", view, kept)))
            write(1, b"leaked\\n")
    sys.last_of_all = Last()
    """
    out = events(noisy(code))
    assert out[0] == "leaked"
    assert out[1:] in ([], ["del kept"])  # the other reference, from the defaults, goes with the class


def test_F5_after_finalization_in_an_embedding_program() -> None:
    program = support.build_program("f_drop_embed", [HERE / "f_drop_embed.c"])
    assert support.run_child([program]).check().lines() == ["deleted", "alive", "ended"]


# --- C++: a destructor is noexcept, and a thread that is unwound or terminated inside one ends the process ---


@pytest.fixture(scope="module")
def drop() -> object:
    return support.build_extension("f_drop", [HERE / "f_drop.cpp"], language="c++", std="c++17")


def test_F5_in_a_static_destructor(drop) -> None:
    code = """
    import f_drop, os
    class Noisy:
        def __del__(self, write=os.write):
            write(1, b"deleted\\n")
    f_drop.drop_at_process_end(Noisy())
    """
    assert events(support.run_child(code.replace("\n    ", "\n"), path=[drop]).check()) == []


def test_F5_in_a_thread_local_destructor(drop) -> None:
    code = """
    import f_drop, os
    class Noisy:
        def __del__(self, write=os.write):
            write(1, b"deleted\\n")
    f_drop.drop_by_thread_local(Noisy())
    os.write(1, b"end\\n")
    """
    assert events(support.run_child(code.replace("\n    ", "\n"), path=[drop]).check()) == ["deleted", "end"]


def test_F5_noexcept_destructors_on_threads_while_the_process_ends(drop) -> None:
    """Some are dropped in time, some too late; static destructors join the threads, so none may be lost."""
    code = "import f_drop\nclass Thing:\n    pass\nf_drop.drop_on_threads(Thing, 3, 2000)\n"
    for _ in range(support.tries(5)):
        assert support.run_child(code, path=[drop]).check().err == ""
