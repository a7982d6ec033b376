"""The one exception that ends a benchmark with a message for the user instead of a traceback."""


class BenchError(Exception):
    """The benchmark can't run or go on; the text says what is wrong and what to do about it."""
