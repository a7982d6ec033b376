"""Attacks at random, for as long as is asked for: ``python -m tests.system.hostile --seconds N --seed S``."""

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from molt_accel import Client
from tests.support import ROOT
from tests.support.peer import PATIENCE_S, SHARED, Peer, loading
from tests.support.pools import BUGS, Window, idle
from tests.support.processes import logged_worker
from tests.system.hostile.offender import ON_MEMORY, ON_SOCKET
from tests.system.hostile.test_hostile import OUTCOMES, attack


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.system.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long [%(default)s]")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of chance; it is printed")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    os.chdir(ROOT)
    total: Counter[str] = Counter()
    writes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="molt-hostile-") as folder:
        log = Path(folder, "log")
        # An attack may cut off both clients at once; they come back to the same worker.
        os.environ["MOLT_RUNTIME_DIR"], os.environ["MOLT_WORKER_LINGER_MS"] = folder, "10000"
        os.environ["MOLT_WORKER_CMD"] = logged_worker(log)
        with Client(**SHARED) as client:
            worker = idle(client)["pid"]
            view = Window()
            peer = Peer()
            until_s = time.monotonic() + options.seconds
            rounds = 0
            while time.monotonic() < until_s:
                name = chance.choice([*ON_MEMORY, *ON_SOCKET])
                turn = Path(folder, str(rounds := rounds + 1))
                turn.mkdir()
                with loading([peer], turn, threads=2, options={"timeout_ms": 1000}) as outcomes:
                    writes[name] += attack(name, 0.5, chance.randrange(2**31))
                total.update({kind.split(":")[0]: count for kind, count in outcomes[0].items()})
                assert set(total) <= OUTCOMES, (name, total)
                if name in ON_SOCKET:
                    assert set(outcomes[0]) == {"Ok"}, (name, outcomes)
                assert client.call("echo", rounds, timeout_ms=PATIENCE_S * 1000) == rounds, name
                assert idle(client)["pid"] == worker, name
                assert not BUGS.search(log.read_text(errors="replace")), log.read_text(errors="replace")[
                    -4000:
                ]
            cpu_s = sum(psutil.Process(worker).cpu_times()[:2])
            print(f"{rounds} attacks; worker {cpu_s:.1f} s CPU; calls: {dict(total)}; steps: {dict(writes)}")
            peer.close()
            view.close()


if __name__ == "__main__":
    main()
