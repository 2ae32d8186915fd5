"""``python -m pep788.demo``, the same as ``pep788 demo``."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
