"""Coroutines, threads of the loop's executor, and a child process."""

import asyncio
import sys


async def main():
    loop = asyncio.get_running_loop()
    sums = await asyncio.gather(*[loop.run_in_executor(None, sum, range(n)) for n in range(50)])
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert out == b"1\n" and sums[3] == 3


asyncio.run(main())
