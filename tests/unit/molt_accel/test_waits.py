"""molt_accel.waits: waiting in an event loop, for an answer and for a start."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from molt_accel import codec
from molt_accel.call import Reply
from molt_accel.errors import MoltTimeout
from molt_accel.waits import adrive
from tests.support.scripted_transport import ScriptedTransport, answer, answer_in, response, silence, unsent
from tests.unit.molt_accel.test_call import call


def test_submitting_again_in_an_event_loop_never_blocks_it() -> None:
    transport = ScriptedTransport(unsent, answer("at last"))
    release = threading.Event()
    transport.start = release.wait  # type: ignore[method-assign,assignment]

    async def main() -> object:
        attempt = asyncio.create_task(adrive(call(transport)))
        while not transport.submitted:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # the loop lives on while the transport starts
        assert not attempt.done()
        release.set()
        return (await attempt).value

    assert asyncio.run(main()) == "at last"


def test_other_tasks_get_their_turn_however_fast_the_answers_are() -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def calls(name: str) -> None:
            for _ in range(3):
                await adrive(call(ScriptedTransport(answer())))
                order.append(name)

        await asyncio.gather(calls("a"), calls("b"))
        return order

    assert asyncio.run(main()) == ["a", "b"] * 3


def test_an_outcome_after_the_event_loop_was_closed_harms_nobody() -> None:
    transport = ScriptedTransport(silence)
    transport.abandon = lambda pending, error: False  # type: ignore[method-assign]

    async def main() -> None:
        async with asyncio.timeout(0.02):
            await adrive(call(transport, timeout_ms=None))

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    transport.calls[0].resolve(response(transport.submitted[0]))
    assert transport.calls[0].done


def test_many_tasks_wait_in_one_loop_at_a_time() -> None:
    transport = ScriptedTransport(lambda request, pending: answer_in(0.02, request.payload)(request, pending))

    async def main() -> list[Reply]:
        return await asyncio.gather(*(adrive(call(transport, number)) for number in range(50)))

    values = [codec.decode("msgpack", reply.value) for reply in asyncio.run(main())]
    assert values == list(range(50))


def test_a_start_that_takes_longer_than_the_deadline_is_given_up_even_if_all_threads_are_taken() -> None:
    transport = ScriptedTransport(answer(1), ready=False)
    release = threading.Event()
    transport.start = release.wait  # type: ignore[method-assign,assignment]

    async def attempt() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        taken = asyncio.get_running_loop().run_in_executor(None, release.wait)
        try:
            with pytest.raises(MoltTimeout, match="the worker was not started within the deadline"):
                await adrive(call(transport, timeout_ms=50))
        finally:
            release.set()
            await taken

    asyncio.run(attempt())
    assert transport.submitted == []
