"""PyO3 (Eclipse Zenoh): a subscriber's callback on the runtime's threads, never undeclared."""

import threading

import zenoh

config = zenoh.Config()
config.insert_json5("scouting/multicast/enabled", "false")
config.insert_json5("listen/endpoints", "[]")
session = zenoh.open(config)
busy = threading.Semaphore(0)


def received(sample):
    busy.release()


subscriber = session.declare_subscriber("demo/**", received)
publisher = session.declare_publisher("demo/one")


def publish():
    while True:
        publisher.put(b"x" * 64)


for _ in range(2):
    threading.Thread(target=publish, daemon=True).start()
for _ in range(50):
    busy.acquire()
