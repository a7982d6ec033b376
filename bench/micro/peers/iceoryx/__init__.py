"""iceoryx2: the client, the process that answers it, and what both share."""
