"""A thread that is not a daemon and that nobody tells to end."""

import threading

threading.Thread(target=threading.Event().wait).start()
