from __future__ import annotations

import asyncio

from webhooks.deadlines import Deadlines

WAIT = 10


def test_calls_are_made_in_their_order_and_not_early() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop, 0.05)
        made: list[tuple[str, float]] = []
        last = asyncio.Event()
        began = loop.time()
        deadlines.set("first", lambda: made.append(("first", loop.time())))
        await asyncio.sleep(0.02)
        deadlines.set("second", lambda: (made.append(("second", loop.time())), last.set()))
        await asyncio.wait_for(last.wait(), WAIT)
        assert [name for name, _ in made] == ["first", "second"]
        assert made[0][1] - began >= 0.05
        assert made[1][1] - began >= 0.07

    asyncio.run(run())


def test_a_call_that_is_called_off_is_not_made_and_keeps_no_other_from_it() -> None:
    async def run() -> None:
        deadlines = Deadlines(asyncio.get_running_loop(), 0.01)
        made: list[str] = []
        last = asyncio.Event()
        deadlines.set("called off", lambda: made.append("called off"))
        deadlines.set("made", lambda: (made.append("made"), deadlines.call_off("called off by the one before")))
        deadlines.set("called off by the one before", lambda: made.append("called off by the one before"))
        deadlines.set("last", last.set)
        deadlines.call_off("called off")
        deadlines.call_off("never set")
        await asyncio.wait_for(last.wait(), WAIT)
        assert made == ["made"]

        last.clear()  # and again, once nothing has been waiting
        deadlines.set("last", last.set)
        await asyncio.wait_for(last.wait(), WAIT)

    asyncio.run(run())


def test_all_of_them_share_one_timer() -> None:
    class Loop(asyncio.SelectorEventLoop):
        timers = 0

        def call_at(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            self.timers += 1
            return super().call_at(*args, **kwargs)

    loop = Loop()
    try:
        deadlines = Deadlines(loop, 60)
        for key in range(1000):
            deadlines.set(key, lambda: None)
            deadlines.call_off(key)
        assert loop.timers == 1
    finally:
        loop.close()
