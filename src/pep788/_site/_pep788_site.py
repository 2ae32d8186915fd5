"""What the sitecustomize of `pep788 stress` and that of `pep788 shield` have in common.

Both import it from this folder: they run in other people's interpreters, where pep788 may not be installed.
"""

import importlib
import os
import sys


def step_aside(file: str) -> None:
    """Import the sitecustomize that this file hides, or say that there is none, as if the file were not there."""
    hidden = [os.path.dirname(os.path.abspath(path)) for path in (file, __file__)]
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) not in hidden]
    del sys.modules["sitecustomize"]
    importlib.import_module("sitecustomize")  # site expects the ModuleNotFoundError
