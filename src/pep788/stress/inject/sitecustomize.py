"""Imported by every interpreter under ``pep788 stress``, in place of the sitecustomize that it then imports."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "_site"))
from _pep788_site import step_aside  # noqa: E402

try:
    import _pep788_stress  # noqa: F401
except Exception:  # the program must run all the same; its record then has no stages, which the report says
    pass
step_aside(__file__)
