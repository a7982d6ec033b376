"""``molt-worker`` for the soak test: the same, but each of its processes writes its stack to its log at SIGUSR2."""

import faulthandler
import signal
import sys

from molt_worker.cli.main import main

if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # the fork server and its executors inherit it
    sys.exit(main())
