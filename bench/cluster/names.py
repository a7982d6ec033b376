"""Names that both sides need to know; nothing is imported for them."""

EXPORTS = "bench.cluster.entrypoints"
SUBJECT = "bench-bare.echo"
UVLOOP_SUBJECT = "bench-bare.echo-uvloop"
"""Where the responder answers that runs on uvloop."""
LINK_PORT_BEHIND = 1
"""Where the responder listens for TCP, counted from NATS' port."""
CELERY_APP = "bench.cluster.peers.celery_app"
"""Imported once the server's address is known, which it reads."""
REDIS_VARIABLE = "BENCH_REDIS_URL"
