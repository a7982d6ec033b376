"""What a view answers, as its entrypoint may choose it: a response of HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

#: Of a cookie: its name, value, value as it is written, and attributes.
Cookie = Sequence[Any]
_LOWEST: Final = 100
_HIGHEST: Final = 599


class Response:
    """What the view answers, for an entrypoint to return. `Client.call` returns it as it is.

    Args:
        body: Bytes and text are sent as they are, text as UTF-8. Anything else is sent as JSON; it arrives as bytes.
        status: The HTTP status, 100 to 599.
        headers: Names to texts.
        content_type: By default that of Django's HttpResponse for bytes and text, else ``application/json``.

    Raises:
        TypeError, ValueError: a status or header is not allowed.
    """

    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        if not isinstance(status, int) or not _LOWEST <= status <= _HIGHEST:
            raise ValueError(f"status: {status!r} is not allowed; it must be a number from 100 to 599")
        self.body = body
        self.status = int(status)
        self.headers = dict(headers or {})
        self.content_type = content_type
        #: Those that a response of Django's has set.
        self.cookies: list[Cookie] = []
        #: The words behind the status; None: the usual ones.
        self.reason: str | None = None
        for name, text in [*self.headers.items(), ("Content-Type", content_type or "")]:
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError(f"headers: {name!r}: {text!r} is not allowed; both must be texts")
            if "\n" in name + text or "\r" in name + text:
                raise ValueError(f"headers: {name!r}: {text!r} is not allowed; it has more than one line")

    def __repr__(self) -> str:
        return f"Response(status={self.status}, headers={self.headers!r}, body={self.body!r:.100})"

    def parts(self) -> list[Any]:
        """What of it travels."""
        return [self.body, self.status, self.headers, self.content_type, self.cookies, self.reason]

    @classmethod
    def of(cls, parts: list[Any]) -> Response:
        """The opposite of `parts`. Raises TypeError, ValueError: they are none."""
        body, status, headers, content_type, cookies, reason = parts
        made = cls(body, status, headers, content_type)
        made.cookies, made.reason = list(cookies), reason
        return made
