"""``python -m pep788.stress``, the same as ``pep788 stress``."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
