"""The process that answers the iceoryx2 peers: ``python -m bench.micro.peers.iceoryx.server MODE ROOT PREFIX``.

MODE is ``poll`` or ``event``. It ends when its parent does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.micro.peers.iceoryx.wire import copied, filled, growing, milliseconds, open_services
from bench.micro.wire import RAW, pack, unpack

LOOK_EVERY = 10_000
"""Polls between two looks at whether the parent still lives."""
WAIT_MS = 1000


def main() -> None:
    """Answers until the parent is gone."""
    mode, root, prefix = sys.argv[1:]
    parent = os.getppid()
    services = open_services(Path(root), prefix)
    server = growing(services.calls.server_builder())
    listener = services.asked.listener_builder().create()
    notifier = services.answered.notifier_builder().create()
    print("ready", flush=True)
    blocking = mode == "event"
    polls = 0
    raw = False
    while True:
        if blocking:
            listener.timed_wait(milliseconds(WAIT_MS))
        while (request := server.receive()) is not None:
            there = request.payload()
            if there.len() == 1:
                raw = there[0] == RAW[0]
            if raw:
                copied(request.loan_slice_uninit(there.len()), there).send()
            else:
                data = pack(unpack(there.as_memory_view()))
                filled(request.loan_slice_uninit(len(data)), data).send()
            request.delete()
            if blocking:
                notifier.notify()
        polls += 1
        if (blocking or polls % LOOK_EVERY == 0) and os.getppid() != parent:
            return


if __name__ == "__main__":
    main()
