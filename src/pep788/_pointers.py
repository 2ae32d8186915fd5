"""`pep788.callback`: what ctypes and cffi know about a function pointer, put into libffi's terms.

The function pointer itself is made by `pep788._callback`, in C.  Here are two translators, `_Ctypes` and `_Cffi`: each
describes the types of one pointer, turns the answer for late calls into bytes, and wraps the address that came out.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Optional, Tuple, Union

if TYPE_CHECKING:
    from ._callback import Description

    _Translator = Union["_Ctypes", "_Cffi"]

HOW_TO_GET_IT = (
    "pep788.callback needs libffi, and this pep788 was built where its C headers were not installed. Install them "
    "(Debian, Ubuntu: libffi-dev; Fedora: libffi-devel; Alpine: libffi-dev; Homebrew, vcpkg, conda: libffi), then "
    "build pep788 again: python -m pip install --force-reinstall --no-binary pep788 pep788"
)

try:
    from ._callback import DEFAULT_ABI, STDCALL_ABI, Pointer
except ModuleNotFoundError as error:
    raise ImportError(HOW_TO_GET_IT, name=error.name) from None


class _Answer(NamedTuple):
    """What late calls get: the bytes of the result, or what the pointer that is the result shall point to."""

    value: bytes
    text: Optional[bytes] = None


def callback(c_callback: Any, on_closed: object, keep_thread_state: Optional[bool], forever: bool) -> Any:
    """See `pep788.callback`, which has the defaults."""
    translator = _translator(c_callback)
    result, parameters = translator.describe()
    answer = _answer(translator, result, on_closed)
    pointer = Pointer(
        owner=(c_callback, on_closed),
        address=translator.address(),
        abi=translator.abi(),
        result=result,
        parameters=parameters,
        answer=answer.value,
        text=answer.text,
        keep_thread_state=translator.keeps_thread_state if keep_thread_state is None else keep_thread_state,
        forever=forever,
    )
    return translator.wrap(pointer)


def _translator(c_callback: Any) -> _Translator:
    if isinstance(c_callback, _FunctionPointer):
        return _Ctypes(c_callback)
    backend = sys.modules.get("_cffi_backend")
    if backend is not None and isinstance(c_callback, backend.FFI.CData):
        return _Cffi(c_callback, backend)
    raise TypeError(
        "c_callback must be a function pointer of ctypes, such as ctypes.CFUNCTYPE(...)(function), or of cffi, "
        f"not {c_callback!r}"
    )


def _answer(translator: _Translator, result: Description, on_closed: object) -> _Answer:
    if result == "void":
        if on_closed is not ... and on_closed is not None:
            raise TypeError(f"this function returns nothing: leave on_closed={on_closed!r} out")
        return _Answer(b"")
    if on_closed is ...:
        raise TypeError(
            f"this function returns {translator.result_name()}: say what late calls shall return, on_closed=VALUE"
        )
    return translator.answer(on_closed)


def _integer(size: int, signed: bool) -> str:
    return f"{'s' if signed else 'u'}int{8 * size}"


class _Member(NamedTuple):
    """A member of a structure; an array is as many elements of its type."""

    offset: int
    size: int
    alignment: int
    elements: Tuple[Description, ...]


def _structure(name: str, members: Iterable[_Member], size: int, alignment: int) -> Description:
    """Libffi knows no layout but the natural one: refuse what it would pass in other places."""
    elements: List[Description] = []
    end = 0
    widest = 1
    for member in members:
        place = -(-end // member.alignment) * member.alignment
        if place != member.offset:
            raise _refused(name, "is packed or aligned")
        elements += member.elements
        end = place + member.size
        widest = max(widest, member.alignment)
    if not elements:
        raise _refused(name, "is empty")
    if (size, alignment) != (-(-end // widest) * widest, widest):
        raise _refused(name, "is packed or aligned")
    return tuple(elements)


def _refused(name: str, why: str) -> TypeError:
    return TypeError(f"{name} {why}: libffi cannot pass it by value, pass a pointer to it")


# --- ctypes -----------------------------------------------------------------------------------------------------

# Private names, but the only ones these base classes have.
_FunctionPointer: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]
_Simple: Any = ctypes._SimpleCData
_DataPointer: Any = ctypes._Pointer

_CDECL = 1  # FUNCFLAG_CDECL, in `_flags_`

# `_type_` of a simple type that is neither an integer nor a pointer.
_CTYPES_FLOATS: Dict[str, str] = {"f": "float", "d": "double", "g": "longdouble"}
for _name in ("complex_float", "complex_double", "complex_longdouble"):  # 3.14
    _complex = getattr(ctypes, f"c_{_name[len('complex_'):]}_complex", None)
    if _complex is not None:
        _CTYPES_FLOATS[_complex._type_] = _name
_CTYPES_POINTERS = "PzZOX"
_CTYPES_SIGNED = "bhilqcuv"  # plain char and wchar_t as in ctypes itself


class _Ctypes:
    keeps_thread_state = False

    def __init__(self, function: Any) -> None:
        self._function = function
        self._type = type(function)
        if getattr(self._type, "_argtypes_", None) is None:
            raise TypeError(
                f"{function!r} does not tell its parameters: make it with ctypes.CFUNCTYPE(...), "
                f"or cast it to such a type"
            )
        self._result = self._type._restype_

    def describe(self) -> Tuple[Description, Tuple[Description, ...]]:
        parameters = tuple(map(_describe_ctype, self._type._argtypes_))
        if self._result is None:
            return "void", parameters
        if isinstance(self._result, type) and issubclass(self._result, ctypes.py_object):
            raise TypeError("a function that returns a Python object has nothing to return when there is no Python")
        if isinstance(self._result, type) and issubclass(self._result, ctypes.Array):
            raise TypeError("C functions do not return arrays")
        return _describe_ctype(self._result), parameters

    def result_name(self) -> str:
        return str(self._result.__name__)

    def address(self) -> int:
        return int.from_bytes(bytes(self._function), sys.byteorder)  # ctypes.cast would make it part of a cycle

    def abi(self) -> int:
        return DEFAULT_ABI if self._type._flags_ & _CDECL else STDCALL_ABI

    def answer(self, on_closed: Any) -> _Answer:
        code = getattr(self._result, "_type_", "")
        if code == "z" and isinstance(on_closed, bytes):
            return _Answer(bytes(ctypes.c_void_p()), on_closed + b"\0")
        if code == "Z" and isinstance(on_closed, str):
            return _Answer(bytes(ctypes.c_void_p()), bytes(ctypes.create_unicode_buffer(on_closed)))
        return _Answer(bytes(self._converted(on_closed)))

    def _converted(self, on_closed: Any) -> Any:
        """An object of the result's type."""
        result = self._result
        if isinstance(on_closed, result):
            return on_closed
        is_pointer = _describe_ctype(result) == "pointer"
        if on_closed is None and is_pointer:
            return result()
        if issubclass(result, _FunctionPointer):
            raise TypeError(f"on_closed must be a {result.__name__} or None, not {on_closed!r}")
        try:
            value = result(*on_closed) if issubclass(result, ctypes.Structure) else result(on_closed)
        except (TypeError, ValueError) as error:
            raise TypeError(f"on_closed={on_closed!r} cannot be made a {result.__name__}: {error}") from None
        made = getattr(value, "value", None)
        if isinstance(on_closed, int) and isinstance(made, int) and made != on_closed and not is_pointer:
            raise OverflowError(f"on_closed={on_closed!r} does not fit into {result.__name__}")
        return value

    def wrap(self, pointer: Pointer) -> Any:
        # Made by cast it has a dict of what it keeps alive, which a structure or array it is stored in then shares.
        wrapped = ctypes.cast(ctypes.c_void_p(pointer.address), self._type)
        wrapped._objects.clear()  # the c_void_p, which keeps that dict: a cycle
        wrapped._objects["pep788"] = pointer
        return wrapped


def _describe_ctype(kind: Any) -> Description:
    if isinstance(kind, type):
        if issubclass(kind, _Simple):
            return _describe_simple(kind)
        if issubclass(kind, (_DataPointer, _FunctionPointer, ctypes.Array)):
            return "pointer"  # C passes arrays as pointers
        if issubclass(kind, ctypes.Union):
            raise _refused(kind.__name__, "is or contains a union")
        if issubclass(kind, ctypes.Structure):
            members = _ctypes_members(kind)
            return _structure(kind.__name__, members, ctypes.sizeof(kind), ctypes.alignment(kind))
    raise TypeError(f"{kind!r} is not a ctypes type, so nothing tells how it is passed")


def _describe_simple(kind: Any) -> str:
    code = kind._type_
    if code in _CTYPES_POINTERS:
        return "pointer"
    if code in _CTYPES_FLOATS:
        return _CTYPES_FLOATS[code]
    return _integer(ctypes.sizeof(kind), code in _CTYPES_SIGNED)


def _ctypes_members(kind: Any) -> Iterable[_Member]:
    for base in reversed(kind.__mro__):
        for name, member, *bits in vars(base).get("_fields_", ()):
            if bits:
                raise _refused(kind.__name__, "has bit fields")
            count = 1
            size, alignment = ctypes.sizeof(member), ctypes.alignment(member)
            while issubclass(member, ctypes.Array):
                count *= member._length_
                member = member._type_
            elements = (_describe_ctype(member),) * count
            yield _Member(vars(base)[name].offset, size, alignment, elements)


# --- cffi -------------------------------------------------------------------------------------------------------

_CFFI_FLOATS = {"float": "float", "double": "double", "long double": "longdouble"}
_CFFI_CHARACTERS = ("char", "wchar_t", "char16_t", "char32_t", "_Bool")


class _Cffi:
    keeps_thread_state = True  # as cffi itself does

    def __init__(self, function: Any, backend: Any) -> None:
        self._function = function
        self._backend = backend
        self._ffi = backend.FFI()
        self._type = self._ffi.typeof(function)
        if self._type.kind != "function":
            raise TypeError(f"c_callback must be a function pointer, not {function!r}")

    def describe(self) -> Tuple[Description, Tuple[Description, ...]]:
        described = self._describe(self._type.result), tuple(map(self._describe, self._type.args))
        if self._type.ellipsis:  # also of what cffi cannot call: the types have told why by now
            raise TypeError(f"{self._type.cname!r} takes any number of arguments: libffi cannot make such a function")
        return described

    def result_name(self) -> str:
        return str(self._type.result.cname)

    def address(self) -> int:
        return int(self._ffi.cast("uintptr_t", self._function))

    def abi(self) -> int:
        return int(self._type.abi)

    def answer(self, on_closed: Any) -> _Answer:
        result = self._type.result
        if result.kind in ("pointer", "function") and on_closed is None:
            on_closed = self._ffi.NULL
        try:
            value = self._ffi.new(self._backend.new_pointer_type(result), on_closed)
        except TypeError as error:
            raise TypeError(f"on_closed={on_closed!r} cannot be made a {result.cname!r}: {error}") from None
        return _Answer(bytes(self._ffi.buffer(value)))

    def wrap(self, pointer: Pointer) -> Any:
        address = self._ffi.cast(self._type, pointer.address)
        return self._ffi.gc(address, lambda _: pointer)  # has nothing to do: it owns the pointer

    def _describe(self, kind: Any) -> Description:
        if kind.kind in ("pointer", "function", "array"):
            return "pointer"
        if kind.kind == "void":
            return "void"
        if kind.kind == "union":
            raise _refused(kind.cname, "is or contains a union")
        if kind.kind == "struct":
            return self._describe_structure(kind)
        if kind.cname in _CFFI_FLOATS:
            return _CFFI_FLOATS[kind.cname]
        if "complex" in kind.cname:
            raise TypeError(f"{kind.cname}: cffi has no callbacks with complex numbers")
        signed = kind.cname not in _CFFI_CHARACTERS and int(self._ffi.cast(kind, -1)) < 0
        return _integer(self._ffi.sizeof(kind), signed)

    def _describe_structure(self, kind: Any) -> Description:
        if kind.fields is None:
            raise TypeError(f"{kind.cname} is opaque: nothing tells how it is passed by value")
        members = self._members(kind)
        return _structure(kind.cname, members, self._ffi.sizeof(kind), self._ffi.alignof(kind))

    def _members(self, kind: Any) -> Iterable[_Member]:
        for _, field in kind.fields:
            if field.bitsize >= 0:
                raise _refused(kind.cname, "has bit fields")
            member, count = field.type, 1
            size, alignment = self._ffi.sizeof(member), self._ffi.alignof(member)
            while member.kind == "array":
                count *= member.length
                member = member.item
            yield _Member(field.offset, size, alignment, (self._describe(member),) * count)
