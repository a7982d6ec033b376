"""`ShedASGI`: an ASGI application around Django's, for event loops that have more to do than they can."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping
from io import BytesIO
from typing import Any, Final

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.http import HttpResponse

from molt_accel.django.front.gate import Gate
from molt_accel.django.front.shedding import offload_at, refuse
from molt_accel.django.front.threads import one_thread

#: Where a request's scope has the function that takes note of its call.
CALLS: Final = "molt_accel.calls"
#: So many refusals a second leave at once. Where there are more, some clients ask again without heeding Retry-After.
AT_ONCE_PER_S: Final = 100
#: The others leave after so many seconds, for which those clients are quiet. As measured beside 128 of them, a light
#: view's p99 falls from 290 to 22 ms, and executors have twice the processor time.
PAUSE_S: Final = 0.25
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class ShedASGI:
    """An ASGI application around Django's: refuses on the loop, lets the others in by turns, keeps their threads.

    What the rate of refusals is over 100 a second waits a quarter of a second for its answer, which costs the loop
    nothing and slows down those who ask again at once.

    No middleware sees what it refuses.

    Args:
        application: Django's, of ``get_asgi_application()``, or one around it.
    """

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application
        self._gate: Gate | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at_once = Allowance(AT_ONCE_PER_S)

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        path = scope["path"].removeprefix(get_script_prefix(scope))
        offload = offload_at(path, scope["method"].upper(), settings.ROOT_URLCONF)
        if offload is None:
            async with one_thread():
                await self._application(scope, receive, send)
            return
        gate, holder = self._gate_here(), object()
        error = await gate.enter(holder, offload.refusal)
        request = None if error is None else _request_of(scope)
        if error is not None and request is not None:
            if not self._at_once.take(asyncio.get_running_loop().time()):
                await asyncio.sleep(PAUSE_S)
            await _send(refuse(offload, request, error), send)
            return
        calls = functools.partial(gate.leave, holder)
        try:
            async with one_thread():
                await self._application({**scope, CALLS: calls}, receive, send)
        finally:
            calls()

    def _gate_here(self) -> Gate:
        loop = asyncio.get_running_loop()
        if self._gate is None or self._loop is not loop:
            self._gate, self._loop = Gate(loop), loop
        return self._gate


class Allowance:
    """So many things a second may be done, and as many at once after a quiet second (a token bucket)."""

    def __init__(self, per_s: int) -> None:
        self._per_s: Final = per_s
        self._left = float(per_s)
        self._since_s = 0.0

    def take(self, now_s: float) -> bool:
        """Whether one more may be done. `now_s` is by a clock that never goes back."""
        self._left = min(self._per_s, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _request_of(scope: MutableMapping[str, Any]) -> ASGIRequest | None:
    try:
        return ASGIRequest(scope, BytesIO())
    except UnicodeDecodeError:  # of its query; Django answers that
        return None


async def _send(response: HttpResponse, send: Send) -> None:
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


def note_call(request: Any) -> None:
    """Take note that a request makes its call now; before, it may have waited at the gate."""
    scope = getattr(request, "scope", None)
    if scope is not None and (calls := scope.get(CALLS)) is not None:
        calls()
