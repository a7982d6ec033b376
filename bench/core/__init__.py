"""What both benchmarks need, written once: statistics, criteria, tables, reports, progress, processes."""


class BenchError(Exception):
    """Ends a benchmark with a message for the user instead of a traceback: what is wrong and what to do about it."""
