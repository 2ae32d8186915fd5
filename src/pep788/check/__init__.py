"""`pep788 check`: finds code that calls into a Python that may be finalizing.

`cli` needs nothing that is not in the standard library; everything else needs the extra `check`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    from . import cli

    return cli.main(sys.argv[1:] if argv is None else argv)
