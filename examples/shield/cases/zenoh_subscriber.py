"""PyO3 (Eclipse Zenoh): a subscriber's callback on the runtime's threads, never undeclared."""

import socket
import threading

import zenoh
from zenoh.handlers import Callback

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    endpoints = f'["tcp/127.0.0.1:{free.getsockname()[1]}"]'
config = zenoh.Config()
config.insert_json5("scouting/multicast/enabled", "false")
config.insert_json5("mode", '"client"')
config.insert_json5("connect/endpoints", endpoints)
router = zenoh.Config()
router.insert_json5("scouting/multicast/enabled", "false")
router.insert_json5("mode", '"router"')
router.insert_json5("listen/endpoints", endpoints)
routing = zenoh.open(router)
session = zenoh.open(config)
busy = threading.Semaphore(0)


def received(sample):
    busy.release()


subscriber = routing.declare_subscriber("demo/**", Callback(received, indirect=False))
publisher = session.declare_publisher("demo/one")


def publish():
    while True:
        publisher.put(b"x" * 64)


for _ in range(2):
    threading.Thread(target=publish, daemon=True).start()
for _ in range(50):
    busy.acquire()
