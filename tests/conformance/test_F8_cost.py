"""F8: acquiring and closing a guard allocates nothing and takes no process-wide lock."""

from __future__ import annotations

import sys

import pytest
import support
from f_tools import HERE

WRAPPED = [
    "malloc",
    "calloc",
    "realloc",
    "aligned_alloc",
    "posix_memalign",
    "pthread_mutex_lock",
    "pthread_mutex_trylock",
    "pthread_spin_lock",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_wrlock",
    "sem_wait",
    "PyThread_acquire_lock",
    "PyThread_acquire_lock_timed",
    "PyMutex_Lock",
]

pytestmark = [
    support.ours_only("native allocates every guard and takes the runtime lock for a view"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs a linker with --wrap"),
]


def counted(call: str) -> tuple:
    """(allocations, locks) of 1,000 rounds, in a fresh process."""
    path = support.build_extension(
        "f_count", [HERE / "f_count.c"], ldflags=[f"-Wl,--wrap={name}" for name in WRAPPED]
    )
    result = support.run_child(f"import f_count\nprint(*f_count.{call})", path=[path]).check()
    allocations, locks = map(int, result.out.split())
    return allocations, locks


def test_F8_the_counters_count() -> None:
    allocations, locks = counted("self_test()")
    assert allocations >= 4 and locks == 1


def test_F8_attached() -> None:
    assert counted("attached()") == (0, 0)


@pytest.mark.parametrize("view", ["main", "current"])
def test_F8_on_a_foreign_thread(view: str) -> None:
    assert counted(f"on_foreign_thread({view == 'main'})") == (0, 0)


def test_F8_nested_Ensure() -> None:
    assert counted("nested_ensure()") == (0, 0)
