"""pep788.callback with cffi: callbacks of both kinds, their types, late calls, lifetimes, errors."""

from __future__ import annotations

import pathlib
import sys

import pytest
import support
from calling import child, needs_ffi

cffi = pytest.importorskip("cffi", reason="cffi is in the extra `test`, but is not installed here")
pytestmark = needs_ffi

CFFI = """
import cffi, weakref
gc.disable()
ffi = cffi.FFI()
ffi.cdef('''
    typedef int (*tick)(int);
    typedef struct { float x, y; } small;
    typedef struct { char name[3]; small at; } nested;
    typedef struct { double values[5]; int64_t count; } large;
    typedef struct { int a : 3; } bits;
    typedef union { int a; double b; } either;
    typedef struct { either e; } has_either;
    typedef struct opaque opaque;
    typedef enum { RED, GREEN = 5 } colour;
    typedef struct { } empty;
    double call_structures(double (*f)(int, small, double, nested, large, small *, signed char), large big);
    small small_of(small (*f)(float), float x);
    large large_of(large (*f)(double), double x);
    void start_pool(tick function, int milliseconds, int microseconds);
    int call_on_thread(tick function, int number);
    void begin_call(tick function, int number);
    int end_call(void);
    int call_often(tick function, int times);
    extern int begun[4], ended[4];
''')
lib = ffi.dlopen(library._name)
"""

INTEGERS = (
    "char signed-char unsigned-char short unsigned-short int unsigned-int long unsigned-long long-long "
    "unsigned-long-long int8_t uint8_t int16_t uint16_t int32_t uint32_t int64_t uint64_t size_t ssize_t _Bool wchar_t "
    "char16_t char32_t intptr_t"
).split()


def test_cffi_every_primitive_type_in_and_out():
    result = child(
        CFFI
        + f"integers = {[name.replace('-', ' ') for name in INTEGERS]!r}\n"
        + """
def values_of(name):
    if name == "char": return [b"\\0", b"a", b"\\xff"]
    if name in ("wchar_t", "char16_t", "char32_t"): return ["a", "\\u20ac"]
    if name == "_Bool": return [False, True]
    bits = 8 * ffi.sizeof(name)
    signed = int(ffi.cast(name, -1)) < 0
    return [0, 1, 100] + ([-1, -2 ** (bits - 1), 2 ** (bits - 1) - 1] if signed else [2 ** bits - 1])
count = 0
for name in integers + ["float", "double", "long double"]:
    values = [0.0, -1.5, 2.0 ** 100] if name in ("float", "double", "long double") else values_of(name)
    for value in values:
        seen = []
        def function(a, number, b):
            seen.append((a, number, b))
            return a
        plain = ffi.callback(f"{name}({name}, int, {name})", function)
        ours = pep788.callback(plain, on_closed=value)
        assert ffi.typeof(ours) is ffi.typeof(plain)
        real = float if name == "long double" else lambda x: x
        assert real(plain(value, 7, value)) == real(ours(value, 7, value)) == value, (name, value)
        assert [(real(a), n, real(b)) for a, n, b in seen] == [(value, 7, value)] * 2, (name, seen)
        late = ffi.cast(ffi.typeof(ours), int(ffi.cast("uintptr_t", ours)))
        del ours
        assert real(late(values[0], 7, values[0])) == value, ("late", name, value)
        assert len(seen) == 2
        count += 1
print(count)
"""
    ).check()
    assert int(result.out) > 80


def test_cffi_structures_pointers_and_enums():
    child(
        CFFI
        + """
got = []
@ffi.callback("double(int, small, double, nested, large, small *, signed char)")
def function(number, small, x, nested, large, pointer, last):
    got.append((number, small.x, small.y, x, b"".join(nested.name), nested.at.x, nested.at.y, list(large.values),
                large.count, pointer.x, last))
    return 7.5
big = ffi.new("large *", ([1, 2, 3, 4, 5], 2**40))[0]
for pointer in function, pep788.callback(function, on_closed=-1):
    assert lib.call_structures(pointer, big) == 7.5
assert got[0] == got[1] == (-5, 1.5, 2.5, 6.25, b"abc", 3.5, 4.5, [1, 2, 3, 4, 5], 2**40, 1.5, -3), got

for name, call, late_value, fields in (("small(*)(float)", lib.small_of, (1.5, -2), lambda s: (s.x, s.y)),
                                       ("large(*)(double)", lib.large_of, ([1, 2, 3, 4, 5], 6),
                                        lambda l: (list(l.values), l.count))):
    make = lambda x: ffi.new(ffi.getctype(ffi.typeof(name).result, "*"), late_value)[0]
    plain = ffi.callback(ffi.typeof(name), make)
    ours = pep788.callback(plain, on_closed=late_value)
    assert fields(call(ours, 3)) == late_value
    address = int(ffi.cast("uintptr_t", ours))
    del ours, plain
    assert fields(call(ffi.cast(name, address), 3)) == late_value
    again = pep788.callback(ffi.cast(name, address), on_closed=make(0))
    address = int(ffi.cast("uintptr_t", again))
    del again
    assert fields(call(ffi.cast(name, address), 3)) == late_value

number = ffi.new("int *", 9)
for kind, late_value, expected in (("int *(*)(void *)", number, number), ("int *(*)(void *)", None, ffi.NULL),
                                   ("colour(*)(colour)", 5, 5), ("colour(*)(colour)", 0, 0),
                                   ("tick(*)(tick)", ffi.NULL, ffi.NULL), ("tick(*)(tick)", None, ffi.NULL)):
    plain = ffi.callback(ffi.typeof(kind), lambda x: x)
    ours = pep788.callback(plain, on_closed=late_value)
    zero = 0 if "colour" in kind else ffi.NULL
    assert ours(zero) == zero
    late = ffi.cast(kind, int(ffi.cast("uintptr_t", ours)))
    del ours
    assert late(zero) == expected, kind

called = []
ours = pep788.callback(ffi.callback("void(int)", called.append))
ours(3)
late = ffi.cast("void(*)(int)", int(ffi.cast("uintptr_t", ours)))
del ours
late(4)
assert called == [3]
"""
    ).check()


def test_cffi_pool():
    code = """
flowing = threading.Event()
@ffi.callback("tick")
def plain(number):
    lib.begun[number] += 1
    sum(range(2000))
    lib.ended[number] += 1
    if lib.ended[number] == 50:
        flowing.set()
    return number
pointer = WRAP
lib.start_pool(pointer, PATIENCE, 0)
flowing.wait()
"""
    clean = "lost 0 wrong 0 cut 0 unreturned 0 called 1\n"
    for wrap in ("pep788.callback(plain, on_closed=-7)", "pep788.callback(plain, on_closed=-7, keep_thread_state=False)"):
        green = child(CFFI + code.replace("WRAP", wrap).replace("PATIENCE", "60000")).check()
        assert (green.out, green.err) == (clean, "")
    red = child(CFFI + code.replace("WRAP", "plain").replace("PATIENCE", "1000"))
    assert red.returncode != 0 or red.out != clean, red.describe()


def test_cffi_lifetime():
    child(
        CFFI
        + """
inside, go_on = threading.Event(), threading.Event()
def function(number):
    inside.set()
    go_on.wait()
    return number + 1
gone = weakref.ref(function)
pointer = pep788.callback(ffi.callback("tick", function), on_closed=-7)
address = int(ffi.cast("uintptr_t", pointer))
lib.begin_call(pointer, 1)
inside.wait()
del function, pointer
assert gone() is not None
assert ffi.cast("tick", address)(5) == -7
go_on.set()
assert lib.end_call() == 2
assert gone() is None

class Stream:
    def __init__(self):
        self.pointer = pep788.callback(ffi.callback("tick", self.event), on_closed=-7)
    def event(self, number):
        return number
stream = Stream()
assert stream.pointer(3) == 3
gone = weakref.ref(stream)
del stream
gc.collect()
assert gone() is None
"""
    ).check()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere states may not be kept: docs/limits.md")
def test_cffi_thread_states_are_kept_as_by_cffi_itself():
    child(
        CFFI
        + """
local = threading.local()
@ffi.callback("tick")
def plain(number):
    local.calls = getattr(local, "calls", 0) + 1
    return local.calls
assert lib.call_often(plain, 10) == 10
assert lib.call_often(pep788.callback(plain, on_closed=-7), 10) == 10
assert lib.call_often(pep788.callback(plain, on_closed=-7, keep_thread_state=False), 10) == 1
"""
    ).check()


ERRORS = {
    "no value": ("ffi.callback('tick', f)", "", "this function returns int: say what late calls shall return, on_closed=VALUE"),
    "a value for nothing": ("ffi.callback('void(void)', f)", "on_closed=1", "this function returns nothing: leave on_closed=1 out"),
    "too large": ("ffi.callback('int8_t(*)(void)', f)", "on_closed=128", "does not fit"),
    "of another type": ("ffi.callback('tick', f)", "on_closed='x'", "on_closed='x' cannot be made a 'int'"),
    "not a function": ("ffi.new('int *')", "on_closed=0", "c_callback must be a function pointer, not <cdata 'int *'"),
    "NULL": ("ffi.cast('tick', 0)", "on_closed=0", "the function pointer is NULL"),
    "variadic": ("ffi.cast('int(*)(int, ...)', 4096)", "on_closed=0", "takes any number of arguments"),
    "a union": ("ffi.cast('void(*)(either)', 4096)", "", "is or contains a union: libffi cannot pass it by value"),
    "a union inside": ("ffi.cast('void(*)(has_either)', 4096)", "", "is or contains a union"),
    "bit fields": ("ffi.cast('void(*)(bits)', 4096)", "", "has bit fields: libffi cannot pass it by value"),
    "empty": ("ffi.cast('void(*)(empty)', 4096)", "", "is empty: libffi cannot pass it by value"),
    "complex": ("ffi.cast('void(*)(double _Complex)', 4096)", "", "cffi has no callbacks with complex numbers"),
    "opaque": ("ffi.cast('void(*)(opaque)', 4096)", "", "opaque"),
}


def test_cffi_what_cannot_work_is_refused():
    result = child(
        CFFI
        + """
def f(*args): pass
def attempt(make, options):
    try:
        eval("pep788.callback(" + make + ", " + options + ")")
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("accepted")
"""
        + "".join(f"attempt({make!r}, {options!r})\n" for make, options, _ in ERRORS.values())
    ).check()
    answers = dict(zip(ERRORS, result.lines()))
    for name, (_, _, words) in ERRORS.items():
        assert words in answers[name], (name, answers[name])


@pytest.fixture(scope="module")
def extern_python() -> pathlib.Path:
    """A module of cffi's API mode, with an `extern "Python"` function."""
    ffi = cffi.FFI()
    ffi.cdef('extern "Python" int on_tick(int);')
    ffi.set_source("extern_python", "")
    source = support.BUILD / "extern_python" / "extern_python.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    ffi.emit_c_code(str(source))
    return support.build_extension("extern_python", [source], extra=["-Wno-error"])


def test_cffi_extern_python(extern_python):
    """What the documentation of cffi recommends."""
    code = f"""
import sys
sys.path.insert(0, {str(extern_python)!r})
from extern_python import ffi, lib as own
flowing = threading.Event()
calls = []
@ffi.def_extern()
def on_tick(number):
    calls.append(number)
    if len(calls) == 200:
        flowing.set()
    return number
pointer = pep788.callback(own.on_tick, on_closed=-7)
assert ffi.typeof(pointer) is ffi.typeof(own.on_tick) and pointer(5) == 5
library.start_pool(ctypes.c_void_p(int(ffi.cast("uintptr_t", pointer))), 60000, 0)
flowing.wait()
"""
    result = child(code).check()
    assert "lost 0 wrong 0" in result.out and result.err == "", result.describe()
