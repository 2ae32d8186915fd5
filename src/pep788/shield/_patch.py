"""Which import slots are rewritten, when, and how they are put back."""

from __future__ import annotations

import atexit
import os
import sys
import time
from _thread import RLock  # not threading: it is for the program to import, on the thread it wants

from pep788.shield import _elf

TYPE_CHECKING = False
if TYPE_CHECKING:  # every program that is shielded waits for this import, and typing takes milliseconds
    from types import ModuleType
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

DRAIN_SECONDS = 5.0
"""How long finalization waits for callbacks in flight unless told otherwise."""

INTERPRETER_ONLY = ("pthread_exit",)
"""Replaced in the object that is the interpreter; everything else in all objects but that one."""

GIL_STATE = ("PyGILState_Ensure", "PyGILState_Release")
THREAD_STATE = (
    "PyThreadState_New",
    "PyThreadState_DeleteCurrent",
    "PyEval_AcquireThread",
    "PyEval_ReleaseThread",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
)
"""Replaced only in objects that import the first of them: it matters to those that make thread states."""

ENTRANCES = ("PyGILState_Ensure", "PyThreadState_New", "PyEval_AcquireThread", "PyEval_RestoreThread")
"""Where a guard is taken. Put back first, so that those inside still leave by the replaced exits."""


class ShieldError(RuntimeError):
    """The shield cannot be put up here; the text says why."""


class _NotMain(ShieldError):
    """Start-up runs in each subinterpreter as well, and has nothing to do there."""


class Entry:
    """One imported function of one object, and whether it is protected.

    `detail` is the kind of its slot, or why it was left alone. If a whole object is not understood, `symbol` is empty.
    """

    def __init__(self, object: str, symbol: str, protected: bool, detail: str) -> None:
        self.object, self.symbol, self.protected, self.detail = object, symbol, protected, detail

    def __repr__(self) -> str:
        return f"Entry({self.object!r}, {self.symbol!r}, {self.protected!r}, {self.detail!r})"


class Report:
    """What the shield protects in this process, and what it cannot.

    `interpreter` is the object that is the interpreter: calls inside it are direct and cannot be replaced. `seconds`
    were spent on finding and rewriting so far.
    """

    def __init__(self, enabled: bool, interpreter: str, entries: Sequence[Entry], seconds: float) -> None:
        self.enabled, self.interpreter, self.entries, self.seconds = enabled, interpreter, tuple(entries), seconds

    def __str__(self) -> str:
        protected = sum(entry.protected for entry in self.entries)
        state = "on" if self.enabled else "off"
        lines = [f"pep788: shield {state}: {protected} imports protected, {len(self.entries) - protected} not"]
        lines.append(f"  interpreter: {self.interpreter} (calls inside it are not replaced)")
        by_object: Dict[str, List[Entry]] = {}
        for entry in self.entries:
            by_object.setdefault(entry.object, []).append(entry)
        for name, entries in by_object.items():
            lines.append(f"  {name}")
            lines += [f"    {'protected' if e.protected else 'NOT protected'}: {_what(e)}" for e in entries]
        return "\n".join(lines)


def _what(entry: Entry) -> str:
    return f"{entry.symbol} ({entry.detail})" if entry.symbol else entry.detail


class _Unloaded(Exception):
    """The object went away while it was looked at, or cannot be held."""


class _Shield:
    """The state of the one shield of the process. Its methods are called with `_lock` held."""

    def __init__(self, native: ModuleType, machine: _elf.Machine) -> None:
        self._native: Any = native
        self._machine = machine
        self._page = os.sysconf("SC_PAGESIZE")
        self._functions: Dict[str, Tuple[int, int]] = native.functions
        self._own = self._functions["PyGILState_Ensure"][1]
        self._interpreter_code = self._functions["PyGILState_Ensure"][0]
        self._seen: Dict[Tuple[int, str], None] = {}
        self._adds = 0
        self._pins: List[int] = []
        self._written: List[Tuple[_elf.Slot, int]] = []  # with what was put there
        self._create_module: Optional[Tuple[Any, Any]] = None  # the loader's own, and ours
        self._limit_before: Optional[float] = None
        self.entries: List[Entry] = []
        self.interpreter = "?"
        self.seconds = 0.0
        self.enabled = False

    # --- scanning ---

    def scan(self) -> None:
        """Protect the objects that were loaded since the last scan."""
        start = time.perf_counter()
        self._adds, loaded = self._native.objects(self._adds)
        for base, name, headers, count in loaded:
            if (base, name) in self._seen:
                continue
            self._seen[base, name] = None
            try:
                self._protect(base, name, headers, count)
            except _Unloaded:
                continue
            except Exception as error:  # whatever it is, the import that we are in must not fail for it
                self.entries.append(Entry(name, "", False, str(error) or type(error).__name__))
        self.seconds += time.perf_counter() - start

    def _protect(self, base: int, name: str, headers: int, count: int) -> None:
        pin = self._pin(base, name)
        kept = False
        try:
            read = self._native.read
            image = _elf.Image(
                base, _elf.segments_of(read(headers, count * _elf.PROGRAM_HEADER.size), base), read, self._page
            )
            names = self._names_for(image, name)
            slots = _elf.find_slots(_elf.Dynamic(image), names, self._machine) if names else []
            if not any(slot.symbol == THREAD_STATE[0] for slot in slots):
                slots = [slot for slot in slots if slot.symbol not in THREAD_STATE]
            for slot in slots:
                kept |= self._replace(image, name or self.interpreter, slot)
        finally:
            if pin is not None and kept:
                self._pins.append(pin)
            elif pin is not None:
                self._native.unpin(pin)

    def _names_for(self, image: _elf.Image, name: str) -> Tuple[str, ...]:
        if image.holds(self._own):
            return ()
        if image.holds(self._interpreter_code):
            self.interpreter = name or os.path.realpath("/proc/self/exe")
            return INTERPRETER_ONLY
        return GIL_STATE + THREAD_STATE

    def _pin(self, base: int, name: str) -> Optional[int]:
        """Keep the object loaded, so that its slots can be put back; None for the program itself."""
        if not name:
            return None
        handle = self._native.pin(name, base)
        if not handle:
            raise _Unloaded  # also the kernel's own object, and those of other link-map namespaces
        return int(handle)

    def _replace(self, image: _elf.Image, name: str, slot: _elf.Slot) -> bool:
        original, replacement = self._functions[slot.symbol]
        reason = None
        if slot.kind == "absolute":
            reason = "a function pointer in a table of its own"
        elif slot.value == replacement:  # by an interpreter before this one, in the same process
            slot.value = original
        elif slot.value != original and not image.is_code(slot.value):
            reason = "something else has replaced it already"
        elif not self._native.exchange(slot.address, slot.value, replacement, slot.read_only):
            slot.value = original  # bound by the loader just now
            if not self._native.exchange(slot.address, original, replacement, slot.read_only):
                reason = "something else is replacing it"
        if reason is None:
            self._written.append((slot, replacement))
        self.entries.append(Entry(name, slot.symbol, reason is None, reason or slot.kind))
        return reason is None

    def keep_closures(self) -> None:
        """Have the machine code of ctypes' and cffi's callbacks outlive the interpreter.

        Finalization frees it with the callback object; a native thread that then calls it never gets as far as
        PyGILState_Ensure.
        """
        types = tuple(
            getattr(sys.modules[module], name)
            for module, name in (("_ctypes", "CFuncPtr"), ("_cffi_backend", "__CDataOwnGC"))
            if hasattr(sys.modules.get(module), name)
        )
        if types:
            import gc

            self._native.keep([found for found in gc.get_objects() if isinstance(found, types)])

    def keep_loaded(self) -> None:
        """Have no library unloaded under its own threads: cffi closes those of `ffi.dlopen` during finalization."""
        for base, name, _, _ in self._native.objects(0)[1]:
            if name:
                self._native.pin(name, base)

    # --- objects that are loaded later ---

    def watch_imports(self) -> None:
        """Scan after each extension module that is loaded, before its code runs (multi-phase initialization)."""
        from importlib.machinery import ExtensionFileLoader

        if self._create_module is not None:
            return  # somebody wraps our wrapper, so it has stayed
        original = ExtensionFileLoader.create_module

        def create_module(loader: ExtensionFileLoader, spec: Any) -> ModuleType:
            try:
                return original(loader, spec)
            finally:
                _scan_if_enabled()

        self._create_module = original, create_module
        setattr(ExtensionFileLoader, "create_module", create_module)  # noqa: B010  mypy: a method

    def unwatch_imports(self) -> None:
        from importlib.machinery import ExtensionFileLoader

        assert self._create_module is not None
        original, ours = self._create_module
        if ExtensionFileLoader.create_module is ours:
            setattr(ExtensionFileLoader, "create_module", original)  # noqa: B010
            self._create_module = None

    # --- putting back ---

    def restore(self, symbols: Callable[[str], bool]) -> None:
        kept = []
        for slot, replacement in self._written:
            if symbols(slot.symbol):
                # Not what we wrote: somebody has replaced it after us, and calls us; that chain is theirs.
                self._native.exchange(slot.address, replacement, slot.value, slot.read_only)
            else:
                kept.append((slot, replacement))
        self._written = kept

    def forget(self) -> None:
        for pin in self._pins:
            self._native.unpin(pin)
        self._pins.clear()
        self._seen.clear()
        self._adds = 0
        self.entries.clear()

    # --- the limit of the wait ---

    def set_limit(self, seconds: float) -> None:
        before = self._native.set_limit(seconds)
        if self._limit_before is None:
            self._limit_before = before

    def reset_limit(self) -> None:
        if self._limit_before is not None:
            self._native.set_limit(self._limit_before)
            self._limit_before = None

    def inside(self) -> List[Tuple[int, str]]:
        return list(self._native.inside())


_lock = RLock()
_shield: Optional[_Shield] = None
_is_off_told = False  # site runs the .pth files of a virtual environment twice


def check_platform() -> _elf.Machine:
    """Raise ShieldError where there is no shield."""
    if not sys.platform.startswith("linux"):
        raise ShieldError(
            f"there is no shield for {sys.platform}, only for Linux: modules there must be recompiled or ported"
        )
    if sys.implementation.name != "cpython":
        raise ShieldError(f"there is no shield for {sys.implementation.name}, only for CPython")
    machine = _elf.MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise ShieldError(f"there is no shield for this processor ({os.uname().machine}), only for x86_64 and aarch64")
    return machine


def _make() -> _Shield:
    machine = check_platform()
    try:
        from pep788 import _shield as native
    except ImportError as error:
        raise ShieldError(f"this installation of pep788 has no shield ({error}); install it again") from error
    if not native.is_main():
        raise _NotMain("enable the shield in the main interpreter: it covers subinterpreters, too")
    return _Shield(native, machine)


def enable(limit: Optional[float] = None, *, _at_start_up: bool = False) -> None:
    """Protect every compiled module of this process, loaded now or later.

    `limit` is how many seconds finalization waits for callbacks in flight (default 5, or `PEP788_GIVE_UP_AFTER` if
    that is set); then a report says who is inside, and finalization goes on. Enabling twice only sets the limit.
    """
    global _shield
    if limit is not None and not 0 <= limit < float("inf"):
        raise ValueError(f"limit must be a number of seconds, not {limit!r}")
    with _lock:
        if _shield is None:
            _shield = _make()
            os.register_at_fork(after_in_child=_forget_lock)
        if not _shield.enabled:
            _shield._native.set_up(_at_start_up)
        if limit is None and "PEP788_GIVE_UP_AFTER" not in os.environ and not _shield.enabled:
            limit = DRAIN_SECONDS
        if limit is not None:
            _shield.set_limit(float(limit))
        if not _shield.enabled:
            _shield.enabled = True
            _shield.scan()
            _shield.watch_imports()
            atexit.register(_at_exit)


def disable(wait: float = DRAIN_SECONDS) -> bool:
    """Put every slot back. Up to `wait` seconds for callbacks in flight; False if some did not end.

    Those keep their guards: finalization waits for them as for any other, until its limit.
    """
    with _lock:
        if _shield is None or not _shield.enabled:
            return True
        _shield.enabled = False
        atexit.unregister(_at_exit)
        _shield.unwatch_imports()
        _shield.restore(lambda symbol: symbol in ENTRANCES)
        end = time.monotonic() + wait
        while _shield.inside() and time.monotonic() < end:
            time.sleep(0.001)
        done = not _shield.inside()
        _shield.restore(lambda symbol: True)
        _shield.forget()
        _shield.reset_limit()
        return done


def is_enabled() -> bool:
    """Whether the shield is on."""
    return _shield is not None and _shield.enabled


def report() -> Report:
    """What is protected and what is not, and why not."""
    with _lock:
        if _shield is None:
            return Report(False, "?", [], 0.0)
        return Report(_shield.enabled, _shield.interpreter, _shield.entries, _shield.seconds)


def _scan_if_enabled() -> None:
    if not is_enabled():
        return  # not for the lock either: disable() may hold it and wait for whoever imports here
    with _lock:
        if _shield is not None and _shield.enabled:
            _shield.scan()


def _at_exit() -> None:
    _scan_if_enabled()  # for what was loaded without an import
    if _shield is not None and _shield.enabled:
        _shield.keep_closures()
        _shield.keep_loaded()


def _forget_lock() -> None:
    """In the child of a fork, where another thread may have held it."""
    global _lock
    _lock = RLock()


def enable_from_environment() -> None:
    """What the `.pth` file and `pep788 shield` call at start-up: never an exception, at most a line on stderr."""
    global _is_off_told
    if is_enabled() or _is_off_told:
        return
    limit = os.environ.get("PEP788_SHIELD_LIMIT")
    try:
        enable(_limit_of(limit) if limit else None, _at_start_up=True)
    except _NotMain:
        return
    except ShieldError as error:
        _is_off_told = True
        print(f"pep788: shield is off: {error}", file=sys.stderr)
        return
    if os.environ.get("PEP788_SHIELD_REPORT") == "1":
        atexit.register(_print_report)


def _limit_of(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise ShieldError(f"PEP788_SHIELD_LIMIT={text!r} is not a number of seconds; give one like 5")
    return seconds


def _print_report() -> None:
    print(report(), file=sys.stderr)
