"""The entrypoint of which it is seen whether and how often it has run."""

import os
import time
from typing import Any

from molt_worker import export


@export
def note(order: dict[str, Any]) -> dict[str, Any]:
    """Write the nonce to the ledger, wait for a file if one is named, and return the nonce and so many bytes."""
    with open(order["ledger"], "a") as ledger:
        ledger.write(order["nonce"] + "\n")
    while order["go"] and not os.path.exists(order["go"]):
        time.sleep(0.001)
    return {"nonce": order["nonce"], "pad": bytes(order["answer_bytes"])}
