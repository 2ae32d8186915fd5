"""Many atexit callbacks, some taken back; their order and their number are as without pep788 stress."""

import atexit
import os

ran = []


def run(number):
    ran.append(number)


def unwanted():
    os.abort()


def check():
    if ran != list(reversed(range(50))):
        os.write(2, b"wrong order\n")
        os._exit(3)


assert atexit.register(check) is check
for number in range(50):
    atexit.register(run, number)
    atexit.register(unwanted)
atexit.unregister(unwanted)


@atexit.register
def decorated():
    assert not ran
