"""gevent with everything patched: threading._shutdown and atexit are not what they were."""

from gevent import monkey

monkey.patch_all()

import atexit  # noqa: E402
import threading  # noqa: E402

import gevent  # noqa: E402

done = []
threads = [threading.Thread(target=lambda: (gevent.sleep(0.001), done.append(1))) for _ in range(10)]
for thread in threads:
    thread.start()
atexit.register(lambda: done.append(2))
gevent.joinall([gevent.spawn(gevent.sleep, 0.001) for _ in range(5)])
