"""A program with a bug of its own."""

import sys

sys.exit("no configuration found")
