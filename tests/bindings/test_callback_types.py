"""pep788.callback: every type goes in and comes out as through the plain ctypes callback, and late answers are right."""

from __future__ import annotations

import ctypes
import sys

import pytest
from calling import child, needs_ffi

pytestmark = needs_ffi

# Every simple type with values of it; `late` calls the function by its address when its object is gone.
SIMPLE = """
from ctypes import *
INT = lambda t: [0, 1, -1, 100, 2 ** (8 * sizeof(t) - 1) - 1] + (
    [-(2 ** (8 * sizeof(t) - 1))] if t(-1).value < 0 else [2 ** (8 * sizeof(t)) - 1])
integers = [c_byte, c_ubyte, c_short, c_ushort, c_int, c_uint, c_long, c_ulong, c_longlong, c_ulonglong, c_size_t,
            c_ssize_t, c_int8, c_uint8, c_int16, c_uint16, c_int32, c_uint32, c_int64, c_uint64]
values = {t: [t(n).value for n in INT(t)] for t in integers}
values[c_bool] = [False, True]
values[c_char] = [b"\\0", b"a", b"\\xff"]
values[c_wchar] = ["a", "\\u20ac"] + (["\\U0001f40d"] if sizeof(c_wchar) == 4 else [])
values[c_float] = [0.0, -1.5, 1.5 * 2 ** 120, float("inf")]
values[c_double] = [0.0, -1.5, 1e308, float("-inf")]
values[c_longdouble] = [0.0, -1.5, 1e308]
values[c_char_p] = [None, b"", b"text"]
values[c_wchar_p] = [None, "", "text \\u20ac"]
values[c_void_p] = [None, 1, 2 ** (8 * sizeof(c_void_p)) - 1]
for name in "c_float_complex", "c_double_complex", "c_longdouble_complex":    # 3.14
    if hasattr(ctypes, name):
        values[getattr(ctypes, name)] = [0j, 1.5 - 2.5j]
kept = []

def through(wrap, kind, value):
    seen = []
    prototype = CFUNCTYPE(kind, kind, c_int, kind)
    def function(a, number, b):
        seen.append((a, number, b))
        return a
    plain = prototype(function)
    kept.append(plain)
    call = wrap(plain)
    result = call(value, 7, value)
    return seen, result
"""


def test_types_every_simple_type_in_and_out():
    result = child(
        SIMPLE
        + """
for kind, all_values in values.items():
    for value in all_values:
        plain = through(lambda f: f, kind, value)
        ours = through(lambda f: pep788.callback(f, on_closed=all_values[0]), kind, value)
        assert plain == ours, (kind, value, plain, ours)
        assert ours[0] == [(value, 7, value)], (kind, value, ours)
        assert ours[1] == value, (kind, value, ours)
print(len(values))
"""
    ).check()
    assert int(result.out) >= 17


def test_types_late_calls_get_every_simple_value():
    child(
        SIMPLE
        + """
for kind, all_values in values.items():
    prototype = CFUNCTYPE(kind, kind)
    for value in all_values:
        def function(x):
            raise AssertionError("a late call ran")
        ours = pep788.callback(prototype(function), on_closed=value)
        late = prototype(address_of(ours))
        del ours
        assert late(all_values[0]) == value, (kind, value, late(all_values[0]))
        if kind in (c_char_p, c_wchar_p):
            continue                # an object of these points to text that Python owns
        ours = pep788.callback(prototype(function), on_closed=kind(value))
        late = prototype(address_of(ours))
        del ours
        assert late(all_values[0]) == value, (kind, value)
"""
    ).check()


def test_types_small_results_are_widened_as_compilers_want_it():
    """On x86-64 libffi and compilers look at the bytes of the type only; elsewhere the rest must be right, too."""
    child("""
from ctypes import *
kinds = {"bool": (c_bool, True), "char": (c_char, b"a"), "sint8": (c_int8, -3), "uint8": (c_uint8, 253),
         "sint16": (c_int16, -300), "uint16": (c_uint16, 65000), "sint32": (c_int32, -70000),
         "uint32": (c_uint32, 4000000000), "sint64": (c_int64, -2**40), "uint64": (c_uint64, 2**63), "wchar": (c_wchar, "x")}
for name, (kind, value) in kinds.items():
    call = getattr(library, "call_" + name)
    prototype = CFUNCTYPE(kind, kind)
    call.argtypes, call.restype = [prototype, kind], c_longlong if name != "uint64" else c_ulonglong
    expected = ord(value) if isinstance(value, (bytes, str)) else value
    plain = prototype(lambda x: x)
    ours = pep788.callback(plain, on_closed=value)
    assert call(ours, value) == call(plain, value) == expected, name
    address = address_of(ours)
    del ours
    zero = kind().value
    assert call(prototype(address), zero) == expected, ("late", name, call(prototype(address), zero))
library.call_float.argtypes, library.call_float.restype = [CFUNCTYPE(c_float, c_float), c_float], c_double
library.call_double.argtypes, library.call_double.restype = [CFUNCTYPE(c_double, c_double), c_double], c_double
library.same_longdouble.argtypes = [CFUNCTYPE(c_longdouble, c_longdouble), c_longdouble]
for name, kind in ("call_float", c_float), ("call_double", c_double):
    ours = pep788.callback(CFUNCTYPE(kind, kind)(lambda x: x / 2), on_closed=0.25)
    assert getattr(library, name)(ours, 5.0) == 2.5
    late = CFUNCTYPE(kind, kind)(address_of(ours))
    del ours
    assert getattr(library, name)(late, 5.0) == 0.25
ours = pep788.callback(CFUNCTYPE(c_longdouble, c_longdouble)(lambda x: x), on_closed=1.5)
late = CFUNCTYPE(c_longdouble, c_longdouble)(address_of(ours))
assert library.same_longdouble(ours, 0.75) == 1
del ours
assert library.same_longdouble(late, 0.75) == 0 and library.same_longdouble(late, 1.5) == 1
""").check()


STRUCTURES = """
from ctypes import *
class Small(Structure):
    _fields_ = [("x", c_float), ("y", c_float)]
class Nested(Structure):
    _fields_ = [("name", c_char * 3), ("at", Small)]
class Large(Structure):
    _fields_ = [("values", c_double * 5), ("count", c_int64)]
class Base(Structure):
    _fields_ = [("a", c_int8)]
class Derived(Base):
    _fields_ = [("b", c_int64), ("c", c_int8 * 2 * 3)]
"""


def test_types_structures_by_value():
    child(
        STRUCTURES
        + """
got = []
@CFUNCTYPE(c_double, c_int, Small, c_double, Nested, Large, POINTER(Small), c_byte)
def function(number, small, x, nested, large, pointer, last):
    got.append((number, small.x, small.y, x, nested.name, nested.at.x, nested.at.y, list(large.values), large.count,
                pointer[0].x, last))
    return 7.5
library.call_structures.argtypes = [type(function), Large]
library.call_structures.restype = c_double
big = Large((c_double * 5)(1, 2, 3, 4, 5), 2**40)
assert library.call_structures(function, big) == 7.5
ours = pep788.callback(function, on_closed=-1)
assert library.call_structures(ours, big) == 7.5
assert got[0] == got[1] == (-5, 1.5, 2.5, 6.25, b"abc", 3.5, 4.5, [1, 2, 3, 4, 5], 2**40, 1.5, -3), got

seen = []
inherited = CFUNCTYPE(None, Derived)(lambda d: seen.append((d.a, d.b, [list(row) for row in d.c])))
pep788.callback(inherited)(Derived(1, 2, ((c_int8 * 2) * 3)((c_int8 * 2)(3, 4), (c_int8 * 2)(5, 6), (c_int8 * 2)(7, 8))))
assert seen == [(1, 2, [[3, 4], [5, 6], [7, 8]])], seen
"""
    ).check()


def test_types_structures_as_results():
    """A callback of ctypes cannot return one; a C function that is wrapped, and a late answer, can."""
    child(
        STRUCTURES
        + """
@CFUNCTYPE(c_float, c_float)
def unused(x): return x
to_small, to_large = CFUNCTYPE(Small, c_float), CFUNCTYPE(Large, c_double)
for kind, value in (to_small, Small(1.5, -2)), (to_small, (1.5, -2)), (to_large, Large((c_double * 5)(1, 2, 3, 4, 5), 6)):
    address = address_of(unused)     # never called
    ours = pep788.callback(kind(address), on_closed=value)
    late = kind(address_of(ours))
    del ours
    expected = value if isinstance(value, Structure) else Small(*value)
    assert bytes(late(0)) == bytes(expected), kind
    name = "small_of" if kind is to_small else "large_of"
    call = getattr(library, name)
    call.argtypes, call.restype = [kind, kind._argtypes_[0]], kind._restype_
    assert bytes(call(late, 0)) == bytes(expected), kind
"""
    ).check()


def test_types_pointers_arrays_functions_and_objects():
    child("""
from ctypes import *
seen = []
inner_type = CFUNCTYPE(c_int, c_int)
@CFUNCTYPE(c_int, POINTER(c_int), c_int * 3, inner_type, py_object, c_char_p, c_void_p, POINTER(POINTER(c_char)))
def function(pointer, array, inner, thing, text, address, deep):
    seen.append((pointer[0], inner(3), thing, text, address, bool(deep)))
    pointer[0] = 8
    return 1
ours = pep788.callback(function, on_closed=0)
number, thing = c_int(5), object()
before = sys.getrefcount(thing)
assert ours(byref(number), (c_int * 3)(1, 2, 3), inner_type(lambda n: n * 2), thing, b"text", 64, None) == 1
assert seen.pop() == (5, 6, thing, b"text", 64, False) and number.value == 8
assert sys.getrefcount(thing) == before

to_function = CFUNCTYPE(inner_type, c_int)
address = address_of(function)
target = inner_type(lambda n: n + 1)
ours = pep788.callback(to_function(address), on_closed=target)
late = to_function(address_of(ours))
del ours
assert late(0)(4) == 5
ours = pep788.callback(to_function(address), on_closed=None)
late = to_function(address_of(ours))
del ours
assert not late(0)
""").check()


def test_types_pointer_results_may_be_null_or_text():
    """Text is copied: nothing of it is Python's."""
    child("""
from ctypes import *
for kind, value, late_value in ((c_char_p, b"late", b"late"), (c_char_p, None, None), (c_wchar_p, "sp\\u00e4t", "sp\\u00e4t"),
                                (c_void_p, None, None), (c_void_p, 4096, 4096),
                                (c_void_p, -1, 2 ** (8 * sizeof(c_void_p)) - 1)):
    prototype = CFUNCTYPE(kind, c_int)
    ours = pep788.callback(prototype(lambda n: None), on_closed=value)
    assert ours(1) is None
    late = prototype(address_of(ours))
    del ours, value
    gc.collect()
    assert late(1) == late_value, kind
to_pointer = CFUNCTYPE(POINTER(c_int), c_int)
number = c_int(9)
print_pointer = CFUNCTYPE(None)(print)
ours = pep788.callback(to_pointer(address_of(print_pointer)), on_closed=pointer(number))
late = to_pointer(address_of(ours))
del ours
assert late(0)[0] == 9
""").check()


def test_types_errno_is_the_callers():
    """What the call leaves (use_errno) is not lost in detaching, which runs destructors; a late call leaves it alone."""
    child("""
import os
from ctypes import *
proto = CFUNCTYPE(c_int, c_int, use_errno=True)
local = threading.local()
class Fails:
    def __del__(self, access=os.access):
        access("/no/such/file", 0)      # errno is ENOENT
seen = []
def function(number):
    local.value = Fails()
    seen.append(get_errno())
    set_errno(44)
    return 1
plain = proto(function)
pointer = pep788.callback(plain, on_closed=0)
assert library.errno_after(pointer, 33) == 44
assert seen == [33], seen
late = proto(address_of(pointer))
del pointer
assert library.errno_after(late, 33) == 33
""").check()


ERRORS = {
    "no value": ("CFUNCTYPE(c_int)(f)", "", "this function returns c_int: say what late calls shall return, on_closed=VALUE"),
    "a value for nothing": ("CFUNCTYPE(None)(f)", "on_closed=3", "this function returns nothing: leave on_closed=3 out"),
    "too large": ("CFUNCTYPE(c_int8)(f)", "on_closed=128", "on_closed=128 does not fit into c_byte"),
    "negative": ("CFUNCTYPE(c_uint)(f)", "on_closed=-1", "on_closed=-1 does not fit into c_uint"),
    "of another type": ("CFUNCTYPE(c_int)(f)", "on_closed='x'", "on_closed='x' cannot be made a c_int: "),
    "an object": ("CFUNCTYPE(py_object)(f)", "on_closed=None", "returns a Python object has nothing to return when there is no Python"),
    "not a pointer": ("f", "on_closed=0", "c_callback must be a function pointer of ctypes"),
    "without types": ("library.ask_at_exit", "on_closed=0", "does not tell its parameters: make it with ctypes.CFUNCTYPE"),
    "NULL": ("CFUNCTYPE(c_int)(0)", "on_closed=0", "the function pointer is NULL"),
    "a union": ("CFUNCTYPE(None, U)(f)", "", "U is or contains a union: libffi cannot pass it by value, pass a pointer to it"),
    "a union inside": ("CFUNCTYPE(None, HasU)(f)", "", "U is or contains a union"),
    "bit fields": ("CFUNCTYPE(None, Bits)(f)", "", "Bits has bit fields: libffi cannot pass it by value"),
    "packed": ("CFUNCTYPE(None, Packed)(f)", "", "Packed is packed or aligned: libffi cannot pass it by value"),
    "empty": ("CFUNCTYPE(None, Empty)(4096)", "", "Empty is empty: libffi cannot pass it by value"),
    "no type": ("CFUNCTYPE(None, NoType)(f)", "", "is not a ctypes type, so nothing tells how it is passed"),
}


def test_types_what_cannot_work_is_refused():
    """Each with its own words."""
    result = child(
        """
from ctypes import *
class U(Union): _fields_ = [("a", c_int), ("b", c_double)]
class HasU(Structure): _fields_ = [("u", U)]
class Bits(Structure): _fields_ = [("a", c_int, 3), ("b", c_int, 5)]
class Packed(Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("a", c_char), ("b", c_int)]
class Empty(Structure): _fields_ = []
class NoType:
    @classmethod
    def from_param(cls, value): return 0
def f(*args): pass
def attempt(make, options):
    try:
        c_callback = eval(make)
    except TypeError as error:      # ctypes itself refuses it
        print("ctypes:", error)
        return
    try:
        eval("pep788.callback(c_callback, " + options + ")")
    except (TypeError, ValueError, OverflowError) as error:
        print("pep788:", error)
    else:
        print("accepted")
"""
        + "".join(f"attempt({make!r}, {options!r})\n" for make, options, _ in ERRORS.values())
    ).check()
    answers = dict(zip(ERRORS, result.lines()))
    for name, (_, _, words) in ERRORS.items():
        assert answers[name].startswith("pep788:") and words in answers[name], (name, answers[name])


@pytest.mark.skipif(sys.platform == "win32", reason="there __stdcall is real")
def test_types_stdcall_is_the_only_convention_here():
    child("""
import pep788._callback as c
assert c.DEFAULT_ABI == c.STDCALL_ABI
""").check()


@pytest.mark.skipif(not hasattr(ctypes, "c_double_complex"), reason="ctypes has complex types from 3.14 on")
def test_types_complex_by_a_compiled_caller():
    child("""
from ctypes import *
proto = CFUNCTYPE(c_double_complex, c_double_complex)
library.call_complex.argtypes, library.call_complex.restype = [proto, c_double, c_double], c_double
ours = pep788.callback(proto(lambda z: z * 2), on_closed=3 + 4j)
assert library.call_complex(ours, 1.0, 2.0) == 2004
late = proto(address_of(ours))
del ours
assert library.call_complex(late, 1.0, 2.0) == 3004
""").check()
