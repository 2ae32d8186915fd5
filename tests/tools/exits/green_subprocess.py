"""A Python that starts Pythons, closes all descriptors, and a forked child that ends on its own."""

import os
import subprocess
import sys

os.closerange(3, 256)
for flags in ([], ["-I"], ["-S"]):
    assert subprocess.run([sys.executable, *flags, "-c", "import sys; sys.exit(7)"]).returncode == 7
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
