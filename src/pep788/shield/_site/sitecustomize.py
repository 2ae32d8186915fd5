"""Found first on PYTHONPATH by programs that `pep788 shield -- ...` starts: puts the shield up, then steps aside."""

import importlib
import os
import sys


def _step_aside() -> None:
    """Import the sitecustomize that this one hides, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    this = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = this


if os.environ.get("PEP788_SHIELD") == "1":
    try:
        from pep788 import shield
    except ImportError as error:
        print(f"pep788: shield is off: {sys.executable} cannot import pep788: {error}", file=sys.stderr)
    else:
        shield.enable_from_environment()
_step_aside()
