"""A sitecustomize of the user's own is on the path.  argv: its folder."""

import sys

import sitecustomize

assert sitecustomize.__file__.startswith(sys.argv[1]), sitecustomize.__file__
assert sitecustomize.MARK == "mine"
