"""A client process of one row: what `bench.micro.caller` is for its peers."""

from __future__ import annotations

from bench.cluster.rows import load
from bench.micro.caller import Host, serve

if __name__ == "__main__":
    serve(Host(load))
