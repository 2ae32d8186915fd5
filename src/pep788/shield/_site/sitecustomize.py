"""Found first on PYTHONPATH by programs that `pep788 shield -- ...` starts: puts the shield up, then steps aside."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "_site"))
from _pep788_site import step_aside  # noqa: E402

if os.environ.get("PEP788_SHIELD") == "1":
    try:
        from pep788 import shield
    except ImportError as error:
        problem = f"{sys.executable} cannot import pep788 ({error}); install it there"
        print(f"pep788: shield is off: {problem}", file=sys.stderr)
    else:
        shield.enable_from_environment()
step_aside(__file__)
