"""Takes values out of a fuzz input, one after the other; behind its end there are zeros."""


class Bytes:
    """An input that is being used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def some(self, count: int) -> bytes:
        """Up to so many bytes."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def rest(self) -> bytes:
        """All that is left."""
        return self.some(len(self._data))

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.some(size), "little")

    def text(self, count: int) -> str:
        """Text of up to so many bytes, surrogates included."""
        return self.some(count).decode("utf-8", "surrogateescape")
