"""Work that is still going on in a ThreadPoolExecutor when the program ends, which waits for it."""

import concurrent.futures
import os

done = []


def work(number):
    done.append(sum(range(number * 1000)))
    if len(done) == 40:
        os.write(1, b"all done\n")


pool = concurrent.futures.ThreadPoolExecutor(4)
for number in range(40):
    pool.submit(work, number)
