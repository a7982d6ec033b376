"""What a pool refuses under load, whom it serves first, and how many it runs, over both transports."""

PATIENCE_MS = 60_000
