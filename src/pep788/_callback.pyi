from typing import Final, Optional, Tuple, Union, final

# A name of libffi's ("sint32", "pointer", ...), or a tuple of types for a structure.
Description = Union[str, Tuple["Description", ...]]

DEFAULT_ABI: Final[int]
STDCALL_ABI: Final[int]

@final
class Pointer:
    def __new__(
        cls,
        owner: object,
        address: int,
        abi: int,
        result: Description,
        parameters: Tuple[Description, ...],
        answer: bytes,
        text: Optional[bytes],
        keep_thread_state: bool,
        forever: bool,
    ) -> Pointer: ...
    @property
    def address(self) -> int: ...
