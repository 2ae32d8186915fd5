"""`pep788 migrate`: rewrite PyGILState pairs to PEP 788, where the whole of a pair can be seen.

`pair` judges one call of PyGILState_Ensure; `macro_pair` and `macro_body` those in macros, with `expand`; `raii` is for
classes, `scoped` for gil_scoped_acquire, `cython_split` for Cython.  `holder` and `life` find a struct for the view,
`entry` gives a module one; `engine` puts all together and checks the result, `writing` brings it into the tree.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    from . import cli

    return cli.main(sys.argv[1:] if argv is None else argv)
