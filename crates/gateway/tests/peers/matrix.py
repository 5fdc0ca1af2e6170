"""Every peer on every route: straight to the gateway, through nginx, through HAProxy. A cell of the
table is `ok`, or what went wrong first."""

from __future__ import annotations

import asyncio
import statistics
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from gateway import PATIENCE, Gateway
from library import Kind, start
from peer import Peer, Socket
from proxy import Proxy, version

PROXIES = ["nginx", "haproxy"]

# Every length of the frame's length field, and what is around it.
LENGTHS = [0, 1, 125, 126, 127, 65_535, 65_536]

MESSAGE_BYTES_MAX = 4 << 20

# So many messages are on their way at once.
BURST = 200

FLAGS = [
    *("--workers", "2", "--echo"),
    *("--message-bytes-max", str(MESSAGE_BYTES_MAX), "--send-queue-bytes-max", "32MiB"),
]

# What both proxies do by default, or nearly: no peer is silent for so long by being slow.
PATIENT_SECONDS = 60

# The idle time-out that is to be seen.
IDLE_SECONDS = 3

# A pong must come for each of so many pings: more than twice the idle time-out.
PING_INTERVAL = ("--ping-interval", "500ms", "--pong-timeout", "10s")
PINGS = 16


class Table:
    """The verdicts: a row for each peer, a column for each route and form of compression."""

    def __init__(self, peers: list[Peer], columns: list[str]) -> None:
        self.peers = peers
        self.columns = columns
        self._wrong: dict[tuple[Peer, str], str] = {}

    async def attempt(self, peer: Peer, column: str, work: Awaitable[object]) -> None:
        """Awaits part of a cell; what is already wrong stays."""
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await work
        except Exception as error:  # Whatever it is belongs into the table.
            line = traceback.extract_tb(error.__traceback__)[-1].line
            self._wrong.setdefault((peer, column), f"{error!r:.200} at {line}")

    async def attempt_all(self, cells: dict[tuple[Peer, str], Awaitable[object]]) -> None:
        """Parts of several cells at once."""
        attempts = [self.attempt(peer, column, work) for (peer, column), work in cells.items()]
        await asyncio.gather(*attempts)

    def rows(self, unable: Callable[[Peer, str], bool]) -> list[tuple[str, ...]]:
        """The table with its heading; `unable` says of which cells nothing was to be shown."""
        rows = [("peer", "version", *self.columns)]
        for peer in self.peers:
            cells = [
                "-" if unable(peer, column) else self._wrong.get((peer, column), "ok")
                for column in self.columns
            ]
            rows.append((peer.name, peer.version, *cells))
        return rows

    @property
    def is_good(self) -> bool:
        """True exactly when nothing went wrong."""
        return not self._wrong


async def echoes(client: Socket) -> None:
    """It is there."""
    await client.send("still there")
    assert await client.receive() == "still there"


async def echo(client: Socket) -> None:
    """Comes back as it was: every length, text and binary, large ones, many at once."""
    for length in LENGTHS:
        for payload in ("é" * (length // 2) + "x" * (length % 2), bytes(length)):
            await client.send(payload)
            assert await client.receive() == payload, f"{length} bytes came back changed"
    binary = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
    for payload in (binary, "😀" * (MESSAGE_BYTES_MAX // 4)):
        await client.send(payload)
        assert await client.receive() == payload, "a large message came back changed"
    for number in range(BURST):
        await client.send(f"{number}")
    for number in range(BURST):
        assert await client.receive() == f"{number}"


async def publish(gateway: Gateway, speaker: Socket, listener: Socket, topic: str) -> None:
    """From one client and over HTTP to another; the speaker has said `own=off`."""
    await speaker.send("from a client")
    await speaker.send(b"\x00\xff")
    assert await listener.receive() == "from a client"
    assert await listener.receive() == b"\x00\xff"
    for payload in ("over HTTP, é", bytes(range(256)) * 256):
        assert await gateway.publish(topic, payload) == 2
        assert await speaker.receive() == payload
        assert await listener.receive() == payload


async def exercise(gateway: Gateway, peer: Peer, address: str, compression: bool | None) -> None:
    """What every peer must be able to do on every route."""
    url = f"ws://{address}"
    client = await peer.open(f"{url}/echo", compression=compression)
    has_compression = "permessage-deflate" in (client.extensions or "")
    assert compression is None or compression <= has_compression, "not compressed"
    await echo(client)
    assert await client.close(4000, "bye") == (4000, "")

    topic = f"room-{id(client)}"
    protocols = ["ringway.raw.v1"]
    speaker = await peer.open(f"{url}/ws/{topic}?own=off", protocols, compression)
    listener = await peer.open(f"{url}/ws/{topic}", protocols, compression)
    assert speaker.protocol == listener.protocol == "ringway.raw.v1"
    await publish(gateway, speaker, listener, topic)
    assert await speaker.close() == (1000, "")


async def open_all(
    table: Table, cells: list[tuple[Peer, str, str]]
) -> dict[tuple[Peer, str], Socket]:
    """A connection to `/echo` for each cell: peer, column, address."""
    sockets: dict[tuple[Peer, str], Socket] = {}

    async def open_one(peer: Peer, column: str, address: str) -> None:
        sockets[peer, column] = await peer.open(f"ws://{address}/echo")

    opening = {(peer, column): open_one(peer, column, address) for peer, column, address in cells}
    await table.attempt_all(opening)
    return sockets


async def idle_with_pings(gateway: Gateway, sockets: dict, table: Table) -> None:
    """Nobody says anything for longer than the proxies allow; the gateway's pings, and the pongs
    that every library sends by itself, keep all connections."""

    async def pongs() -> int:
        return (await gateway.http("GET", "/latency"))["stages"]["ping"]["count"]

    wanted = await pongs() + PINGS * len(sockets)
    async with asyncio.timeout(2 * PATIENCE):
        while await pongs() < wanted:
            await asyncio.sleep(0.1)
    await table.attempt_all({cell: echoes(client) for cell, client in sockets.items()})


async def drain(gateway: Gateway, sockets: dict, table: Table) -> None:
    """Told to end, the gateway closes all connections, and every client learns why."""

    async def is_told(client: Socket) -> None:
        assert await client.closed() == (1012, "restarting")

    gateway.terminate()
    await table.attempt_all({cell: is_told(client) for cell, client in sockets.items()})


async def end_unasked(table: Table, peers: list[Peer]) -> dict[str, str]:
    """How connections end that the client did not mean to end. Without pings the proxies cut what
    is silent, and only they; too long a message is answered with Close on every route. Returns
    after how many seconds the proxies cut, by proxy: the median of the peers."""
    cut: dict[str, list[float]] = {name: [] for name in PROXIES}
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway("--echo", "--ping-interval", "0"))
        addresses = await front(stack, gateway, IDLE_SECONDS)
        cells = [(peer, route, address) for route, address in addresses.items() for peer in peers]
        sockets = await open_all(table, cells)
        opened = time.monotonic()

        async def is_cut(client: Socket, proxy: str) -> None:
            await client.closed()
            cut[proxy].append(time.monotonic() - opened)

        async def is_told(peer: Peer, address: str) -> None:
            client = await peer.open(f"ws://{address}/echo")
            await client.send(bytes(65_537))
            assert await client.closed() == (1009, "message too big")

        direct = {cell: client for cell, client in sockets.items() if cell[1] == "plain"}
        passed = {cell: client for cell, client in sockets.items() if cell not in direct}
        await table.attempt_all({cell: is_cut(client, cell[1]) for cell, client in passed.items()})
        await table.attempt_all({cell: echoes(client) for cell, client in direct.items()})
        await table.attempt_all(
            {(peer, route): is_told(peer, address) for peer, route, address in cells}
        )
    return {name: f"{statistics.median(times):.1f} s" for name, times in cut.items() if times}


async def front(stack: AsyncExitStack, gateway: Gateway, idle_seconds: int) -> dict[str, str]:
    """Starts the proxies before a gateway. Addresses by route."""
    addresses = {"plain": gateway.data}
    for name in PROXIES:
        proxy = await stack.enter_async_context(Proxy(name, gateway.data, idle_seconds))
        addresses[name] = proxy.address
    return addresses


async def matrix(kinds: list[Kind], compression: str) -> tuple[Table, list, list]:
    """Runs it. The table, its rows, and those of the proxies."""
    forms: dict[str, bool | None] = {"": None}
    flags = [*FLAGS, *PING_INTERVAL, "--drain", "1s"]
    if compression == "on":
        forms = {"": False, " deflate": True}
        flags += ["--compression", "on"]
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(start(kind)) for kind in kinds]
        able = {peer for peer, kind in zip(peers, kinds, strict=True) if kind.compresses}
        gateway = await stack.enter_async_context(Gateway(*flags))
        addresses = await front(stack, gateway, PATIENT_SECONDS)
        table = Table(peers, [f"{route}{form}" for form in forms for route in addresses])
        for form, compressed in forms.items():
            for route, address in addresses.items():
                for peer in peers:
                    if not compressed or peer in able:
                        work = exercise(gateway, peer, address, compressed)
                        await table.attempt(peer, route + form, work)
        addresses = await front(stack, gateway, IDLE_SECONDS)
        cells = [(peer, route, address) for route, address in addresses.items() for peer in peers]
        sockets = await open_all(table, cells)
        await idle_with_pings(gateway, sockets, table)
        await drain(gateway, sockets, table)
        if not table.is_good:
            gateway.show_log()
        cut = await end_unasked(table, peers)

    rows = table.rows(lambda peer, column: column.endswith(" deflate") and peer not in able)
    proxies = [("proxy", "version", "idle connection", "with pings each 500 ms")]
    for name in PROXIES:
        proxies.append((name, await version(name), f"cut after {cut.get(name, '?')}", "kept"))
    return table, rows, proxies
