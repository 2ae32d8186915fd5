"""`pep788 migrate`: rewrite PyGILState pairs to PEP 788, where the whole of a pair can be seen.

`pair` judges one call of PyGILState_Ensure, `entry` gives a module its view, `engine` puts both together and checks
the result, `writing` brings it into the tree.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    from . import cli

    return cli.main(sys.argv[1:] if argv is None else argv)
