"""Classic benchmark programs as entrypoints: typed Python that runs as it is, and compiled by `molt-worker build`.

Each takes a size, and gives a result by which a wrong computation would show.
"""
