"""``python -m pep788``: the same as the ``pep788`` command."""

import sys

from pep788.cli import main

if __name__ == "__main__":
    sys.exit(main())
