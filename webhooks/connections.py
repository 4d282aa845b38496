"""The connections of the server: how many there may be, and for how long one may wait for its sender."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from . import answers
from .limits import MAX_HEAD, WAIT, Tally, max_connections

if TYPE_CHECKING:
    from uvicorn import Config


class Gate:
    """Knows the open connections of a server, and which of them wait for their sender.

    Where there is no room for another one, the connection that has waited longest makes it: a sender whose request
    is on its way comes through, however many connections do nothing.

    Args:
        tally: counts what is turned away.
        behind_proxy: everything comes from one address. What a proxy says about the sender is not believed, since
            the sender may have written that itself.
    """

    def __init__(self, tally: Tally, behind_proxy: bool) -> None:
        self.tally = tally
        self._behind_proxy = behind_proxy
        self._room = max_connections()
        self._open: dict[Any, str | None] = {}  # each with its sender, if that is known
        self._of: Counter[str] = Counter()
        self._waiting: dict[Any, float] = {}  # since when; the longest is the first
        self._will_look = False

    def stand_in_front(self, config: Config) -> None:
        """Have uvicorn use it for every connection from now on.

        Gradio makes uvicorn's configuration itself, and neither of uvicorn's parsers has all of these limits.
        """
        kind = type("LimitedProtocol", (_Limited, config.http_protocol_class), {})
        config.http_protocol_class = partial(kind, self)  # type: ignore[assignment]

    def enter(self, connection: Any) -> None:
        sender = self._sender(connection)
        self._open[connection] = sender
        if sender is not None:
            self._of[sender] += 1
        self.wait(connection)
        if sender is not None and self._of[sender] > self._room // 2:
            self.turn_away(connection, 503, "Too many connections come from your address.")
        elif len(self._open) > self._room:
            longest = next(iter(self._waiting))
            self.turn_away(longest, 503, "Too many connections are open. Send your request again.")

    def leave(self, connection: Any) -> None:
        self._waiting.pop(connection, None)
        sender = self._open.pop(connection, None)
        if sender is not None:
            self._of[sender] -= 1
            if not self._of[sender]:
                del self._of[sender]

    def wait(self, connection: Any) -> None:
        if connection not in self._open:
            return
        self._waiting.pop(connection, None)  # so that it becomes the last
        self._waiting[connection] = time.monotonic()
        if not self._will_look:
            self._will_look = True
            asyncio.get_running_loop().call_later(1, self._look)

    def go_on(self, connection: Any) -> None:
        self._waiting.pop(connection, None)

    def turn_away(self, connection: Any, status: int, sentence: str) -> None:
        self.tally.add(sentence)
        self.leave(connection)
        transport, cycle = connection.transport, connection.cycle
        if cycle is not None and not cycle.response_complete:  # the answer would get into the middle of another
            transport.abort()
            return
        answer = answers.answer(status, {"error": sentence}, {"Connection": "close"})
        first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
        headers = [b": ".join(pair) for pair in answer.raw_headers]
        transport.write(b"\r\n".join([first, *headers, b"", bytes(answer.body)]))
        transport.close()
        asyncio.get_running_loop().call_later(1, transport.abort)  # a sender that does not read it

    def _look(self) -> None:
        before = time.monotonic() - WAIT
        for connection in [connection for connection, since in self._waiting.items() if since < before]:
            if connection.is_silent:  # as those are that browsers open in advance
                self.leave(connection)
                connection.transport.abort()
            else:
                self.turn_away(connection, 408, f"A sender has not gone on, or not read on, for {WAIT:g} seconds.")
        self._will_look = bool(self._waiting)
        if self._will_look:
            asyncio.get_running_loop().call_later(1, self._look)

    def _sender(self, connection: Any) -> str | None:
        if self._behind_proxy or connection.client is None:
            return None
        address = ipaddress.ip_address(connection.client[0].partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return None if address.is_loopback else str(address)  # the share link's tunnel is on this machine, too


class _Limited:
    """Comes before uvicorn's `HttpToolsProtocol` or `H11Protocol`: it sees each piece of a request before they do."""

    transport: Any
    client: tuple[str, int] | None
    scope: Any
    cycle: Any

    def __init__(self, gate: Gate, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gate = gate
        self._in_head = True
        self._head = 0  # bytes of the request that is not complete

    @property
    def is_silent(self) -> bool:
        return not self._head and (self.cycle is None or self.cycle.response_complete)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._gate.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._gate.leave(self)
        super().connection_lost(error)  # type: ignore[misc]

    def handle_websocket_upgrade(self, *args: Any) -> None:
        self._gate.leave(self)
        super().handle_websocket_upgrade(*args)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._head + len(data) > MAX_HEAD:
            end = data.find(b"\r\n\r\n")
            if self._head + (len(data) if end < 0 else end) > MAX_HEAD:
                self._gate.turn_away(self, 431, f"The headers are over {MAX_HEAD} bytes.")
                return
        former = self.cycle
        super().data_received(data)  # type: ignore[misc]
        cycle = self.cycle
        if cycle is not former:
            self._gate.go_on(self)
        self._head = self._head + len(data) if self._in_head and cycle is former else 0
        # Both of uvicorn's protocols make a cycle of a request as soon as its headers are complete.
        self._in_head = cycle is None or cycle.scope is not self.scope or not cycle.more_body

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        if self.cycle.response_complete:  # and it was the last request that has come
            self._gate.wait(self)

    def send_400_response(self, message: str) -> None:
        self._gate.tally.add("No valid HTTP request.")
        super().send_400_response(message)  # type: ignore[misc]

    def pause_writing(self) -> None:
        self._gate.wait(self)
        super().pause_writing()  # type: ignore[misc]

    def resume_writing(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._gate.go_on(self)
        super().resume_writing()  # type: ignore[misc]
