import sys
from types import TracebackType
from typing import Final, List, Optional, Tuple, Type, final

HEADER_VERSION: Final[str]

if sys.version_info >= (3, 13):
    from builtins import PythonFinalizationError as PythonFinalizationError
else:
    class PythonFinalizationError(RuntimeError): ...

@final
class guard:
    def __new__(cls) -> guard: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
        /,
    ) -> None: ...

_guard = guard  # inside View the name is the method

@final
class View:
    @classmethod
    def current(cls) -> View: ...
    @classmethod
    def main(cls) -> View: ...
    def guard(self) -> _guard: ...
    @property
    def alive(self) -> bool: ...

def guard_count() -> int: ...
def modules() -> List[Tuple[str, int]]: ...
