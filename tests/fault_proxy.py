"""A proxy before an HTTP server that answers some requests with faults, drawn by a seed.

What it forwards it forwards byte for byte, so signed requests stay valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"
FAULTS = ("busy", "slow", "reset", "lost_answer")


@dataclass
class FaultProxy:
    """Where it listens, what it does, and how often it did.

    Attributes:
        target: Port of the server, on this machine.
        shares: Share of the requests for each fault: ``busy`` answers 503, ``slow`` waits before
            it forwards, ``reset`` breaks the connection off before, ``lost_answer`` after the
            server has done what was asked.
        slow_seconds: How long ``slow`` waits.
        drop_header: A header that is left out, in lower case.
        seed: Of the draws.
    """

    target: int
    shares: dict[str, float] = field(default_factory=dict)
    slow_seconds: float = 2.0
    drop_header: bytes | None = None
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    port: int = 0

    def __post_init__(self) -> None:
        assert set(self.shares) <= set(FAULTS)
        self._draw = random.Random(self.seed)

    @property
    def url(self) -> str:
        """What clients are given as the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Listen, in a thread, until the context ends."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.1))
            loop.close()

    def _fault(self) -> str:
        self.counts["requests"] += 1
        names = list(self.shares)
        weights = [*self.shares.values(), 1 - sum(self.shares.values())]
        (name,) = self._draw.choices([*names, "none"], weights)
        self.counts[name] += 1
        return name

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: asyncio.StreamWriter | None = None
        answers: asyncio.Task[None] | None = None
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self.target)
            answers = asyncio.create_task(_pump(from_server, writer))
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fault = self._fault()
                if fault == "busy":
                    writer.write(
                        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\n"
                        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(BUSY), BUSY)
                    )
                    await writer.drain()
                    # A client that is still sending would lose the answer to a reset.
                    await _forward(head, reader, None)
                    return None
                if fault == "reset":
                    return _reset(writer)
                if fault == "slow":
                    await asyncio.sleep(self.slow_seconds)
                if fault == "lost_answer":
                    answers.cancel()
                    # No word of the server passes, so that it may send its body comes from here.
                    shorter = _without(head, b"expect")
                    if shorter != head:
                        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    head = shorter
                server.write(self._without_header(head))
                await _forward(head, reader, server)
                if fault == "lost_answer":
                    with contextlib.suppress(asyncio.CancelledError):
                        await answers
                    await from_server.readuntil(b"\r\n\r\n")
                    return _reset(writer)
        except (OSError, asyncio.IncompleteReadError):
            # One of the sides has gone.
            return None
        finally:
            if answers is not None:
                answers.cancel()
            for side in filter(None, (server, writer)):
                side.close()

    def _without_header(self, head: bytes) -> bytes:
        if self.drop_header is None:
            return head
        shorter = _without(head, self.drop_header)
        self.counts["dropped"] += shorter != head
        return shorter


def _without(head: bytes, name: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))


async def _forward(
    head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None
) -> None:
    """Pass the body of a request on; nowhere where there is no writer."""

    async def take(length: int) -> None:
        while length:
            data = await reader.read(min(length, 1 << 16))
            if not data:
                raise ConnectionResetError
            length -= len(data)
            await give(data)

    async def give(data: bytes) -> None:
        if writer is not None:
            writer.write(data)
            await writer.drain()

    lines = head.lower().split(b"\r\n")[1:]
    headers = dict(line.split(b":", 1) for line in lines if b":" in line)
    if b"chunked" not in headers.get(b"transfer-encoding", b""):
        await take(int(headers.get(b"content-length", b"0")))
        return
    size = None
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        await give(line)
        if size:
            await take(size + 2)
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        await give(line)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset and not an end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
