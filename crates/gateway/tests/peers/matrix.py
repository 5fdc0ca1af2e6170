"""Every peer on every route: straight to the gateway, through nginx, through HAProxy. A cell of the
table is `ok`, or what went wrong first."""

from __future__ import annotations

import asyncio
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Awaitable
from contextlib import AsyncExitStack

from gateway import PATIENCE, Gateway, Stats, total
from library import Kind, start
from peer import Peer, Socket
from proxy import Proxy, version

PROXIES = ["nginx", "haproxy"]
ROUTES = ["direct", *PROXIES]

# Every length of the frame's length field, and what is around it.
LENGTHS = [0, 1, 125, 126, 127, 65_535, 65_536]

MESSAGE_BYTES_MAX = 4 << 20

# What is added to a column's name where the gateway compresses.
DEFLATE = " deflate"

# So many messages are on their way at once.
BURST = 200

FLAGS = [
    *("--workers", "2", "--echo", "--drain", "1s"),
    *("--message-bytes-max", str(MESSAGE_BYTES_MAX), "--send-queue-bytes-max", "32MiB"),
]

# What both proxies do by default, or nearly: no peer is silent for so long by being slow.
PATIENT_SECONDS = 60

# The idle time-out that is to be seen.
IDLE_SECONDS = 3

# A pong must come for each of so many pings: more than twice the idle time-out.
PING_INTERVAL = ("--ping-interval", "500ms", "--pong-timeout", "10s")
PINGS = 16


# Open connections, by peer and column.
Sockets = dict[tuple[Peer, str], Socket]


class Table:
    """The verdicts: a row for each peer, a column for each route and form of compression."""

    def __init__(self, kinds: dict[Peer, Kind], forms: list[bool]) -> None:
        """`forms` says with and without permessage-deflate, or only without."""
        self._kinds = kinds
        self._columns = [self.column(route, form) for form in forms for route in ROUTES]
        self._wrong: dict[tuple[Peer, str], str] = {}

    @staticmethod
    def column(route: str, deflate: bool) -> str:
        """The name of a column."""
        return route + DEFLATE if deflate else route

    def kinds_of(self, deflate: bool) -> dict[Peer, Kind]:
        """The peers that take part in this form, with their kinds."""
        return {
            peer: kind for peer, kind in self._kinds.items() if not deflate or kind.deflate != "no"
        }

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

    def rows(self) -> list[tuple[str, ...]]:
        """The table with its heading. A peer without permessage-deflate has nothing to show in the
        columns of it."""
        rows = [("peer", "version", "permessage-deflate", *self._columns)]
        for peer, kind in self._kinds.items():
            cells = [
                "-"
                if kind.deflate == "no" and column.endswith(DEFLATE)
                else self._wrong.get((peer, column), "ok")
                for column in self._columns
            ]
            rows.append((peer.name, peer.version, kind.deflate, *cells))
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
    for payload in ("from a client", b"\x00\xff", "again and again " * 100, bytes(1000)):
        await speaker.send(payload)
        assert await listener.receive() == payload
    for payload in ("over HTTP, é", bytes(range(256)) * 256):
        assert await gateway.publish(topic, payload) == 2
        assert await speaker.receive() == payload
        assert await listener.receive() == payload


async def exercise(gateway: Gateway, peer: Peer, address: str, deflate: bool) -> None:
    """What every peer must be able to do on every route."""
    url = f"ws://{address}"
    compression = True if deflate else None
    client = await peer.open(f"{url}/echo", compression=compression)
    assert ("permessage-deflate" in client.extensions) == deflate, client.extensions
    await echo(client)
    assert await client.close(4000, "bye") == (4000, "")

    topic = f"room-{id(client)}"
    protocols = ["ringway.raw.v1"]
    speaker = await peer.open(f"{url}/ws/{topic}?own=off", protocols, compression)
    listener = await peer.open(f"{url}/ws/{topic}", protocols, compression)
    assert speaker.protocol == listener.protocol == "ringway.raw.v1"
    await publish(gateway, speaker, listener, topic)
    assert await speaker.close() == (1000, "")
    assert await listener.close(3000) == (3000, "")


# How many closings an `exercise` asks for.
CLOSINGS = 3


async def compressed(gateway: Gateway) -> tuple[int, int]:
    """How many messages the gateway has inflated and deflated."""
    stats = await gateway.stats_until(lambda _: True)
    return total(stats, "inflated", "messages"), total(stats, "deflated", "messages")


async def flowed(kind: Kind, before: tuple[int, int], now: tuple[int, int]) -> None:
    """Compressed messages went in every direction in which the library can compress."""
    assert now[1] > before[1], "the gateway compressed nothing for it"
    assert (now[0] > before[0]) == (kind.deflate == "both ways"), "what it sends, compressed or not"


async def exercise_all(
    gateway: Gateway, table: Table, addresses: dict[str, str], deflate: bool
) -> None:
    """Every peer on every route, and every closing handshake is complete in the gateway's eyes too.
    With compression one after the other, so that what was compressed meanwhile is known to be its
    own."""
    kinds = table.kinds_of(deflate)
    now = (0, 0)
    for route, address in addresses.items():
        column = table.column(route, deflate)
        work = {(peer, column): exercise(gateway, peer, address, deflate) for peer in kinds}
        if not deflate:
            await table.attempt_all(work)
            continue
        for peer, kind in kinds.items():
            await table.attempt(peer, column, work[peer, column])
            before, now = now, await compressed(gateway)
            await table.attempt(peer, column, flowed(kind, before, now))
    assert deflate or await compressed(gateway) == (0, 0), "compressed without being asked"
    if table.is_good:
        closings = CLOSINGS * len(kinds) * len(addresses)
        await gateway.stats_until(lambda stats: total(stats, "closed", "peer_closed") == closings)


async def open_all(
    table: Table, addresses: dict[str, str], deflate: bool
) -> Sockets:
    """A connection of each peer to `/echo` on each of these routes, by the cell."""
    sockets: Sockets = {}

    async def open_one(peer: Peer, column: str, address: str) -> None:
        compression = True if deflate else None
        sockets[peer, column] = await peer.open(f"ws://{address}/echo", compression=compression)

    await table.attempt_all(
        {
            (peer, column): open_one(peer, column, address)
            for route, address in addresses.items()
            for column in [table.column(route, deflate)]
            for peer in table.kinds_of(deflate)
        }
    )
    return sockets


async def idle_with_pings(gateway: Gateway, sockets: Sockets, table: Table) -> None:
    """Nobody says anything for longer than the proxies allow; the gateway's pings, and the pongs
    that every library sends by itself, keep all connections."""

    async def pongs() -> int:
        return (await gateway.http("GET", "/latency"))["stages"]["ping"]["count"]

    wanted = await pongs() + PINGS * len(sockets)
    async with asyncio.timeout(2 * PATIENCE):
        while await pongs() < wanted:
            await asyncio.sleep(0.1)
    await table.attempt_all({cell: echoes(client) for cell, client in sockets.items()})


async def drain(gateway: Gateway, sockets: Sockets, table: Table) -> None:
    """Told to end, the gateway closes all connections, and every client learns why."""

    async def is_told(client: Socket, code: int) -> None:
        assert await client.closed() == (code, "restarting")

    codes = {peer: kind.restarting for peer, kind in table.kinds_of(deflate=False).items()}
    gateway.terminate()
    await table.attempt_all(
        {cell: is_told(client, codes[cell[0]]) for cell, client in sockets.items()}
    )


async def say_too_much(gateway: Gateway, table: Table, deflate: bool) -> None:
    """Too long a message is answered with Close, and every client learns why."""

    async def is_told(client: Socket) -> None:
        await client.send(bytes(65_537))
        assert await client.closed() == (1009, "message too big")

    async with AsyncExitStack() as stack:
        addresses = await front(stack, gateway, PROXIES, PATIENT_SECONDS)
        sockets = await open_all(table, addresses, deflate)
        await table.attempt_all({cell: is_told(client) for cell, client in sockets.items()})


async def idle_without_pings(
    gateway: Gateway, table: Table, proxy: str, deflate: bool
) -> tuple[str, str]:
    """This proxy cuts what was silent for longer than it allows, and only it. Returns after how
    many seconds (the median of the peers), and what the gateway says of these connections."""
    times: list[float] = []

    async def is_cut(client: Socket) -> None:
        await client.closed()
        times.append(time.monotonic() - opened)

    async with AsyncExitStack() as stack:
        addresses = await front(stack, gateway, [proxy], IDLE_SECONDS)
        before = closings(await gateway.stats_until(lambda _: True))
        sockets = await open_all(table, addresses, deflate)
        opened = time.monotonic()
        direct = {cell: client for cell, client in sockets.items() if cell[1].startswith("direct")}
        passed = {cell: client for cell, client in sockets.items() if cell not in direct}
        await table.attempt_all({cell: is_cut(client) for cell, client in passed.items()})
        await gateway.connections(len(direct))
        ended = closings(await gateway.stats_until(lambda _: True)) - before
        await table.attempt_all({cell: echoes(client) for cell, client in direct.items()})
        await table.attempt_all({cell: leave(client) for cell, client in direct.items()})
    after = f"{statistics.median(times):.1f} s" if times else "?"
    return after, ", ".join(f"{count} {reason}" for reason, count in sorted(ended.items()))


async def leave(client: Socket) -> None:
    """It closes by itself."""
    assert await client.close() == (1000, "")


def closings(stats: Stats) -> Counter[str]:
    """How many connections have ended, by the reason that the gateway gives."""
    counts: Counter[str] = Counter()
    for worker in stats["workers"]:
        counts.update(worker["closed"])
    return counts


async def front(
    stack: AsyncExitStack, gateway: Gateway, proxies: list[str], idle_seconds: int
) -> dict[str, str]:
    """Starts these proxies before a gateway. Addresses by route."""
    addresses = {"direct": gateway.data}
    for name in proxies:
        proxy = await stack.enter_async_context(Proxy(name, gateway.data, idle_seconds))
        addresses[name] = proxy.address
    return addresses


async def run_form(table: Table, deflate: bool) -> list[tuple[str, ...]]:
    """Everything with or without permessage-deflate; the lines of the proxies' table."""
    compression = "on" if deflate else "off"
    flags = [*FLAGS, *PING_INTERVAL, "--compression", compression]
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(*flags))
        addresses = await front(stack, gateway, PROXIES, PATIENT_SECONDS)
        await exercise_all(gateway, table, addresses, deflate)
        addresses = await front(stack, gateway, PROXIES, IDLE_SECONDS)
        sockets = await open_all(table, addresses, deflate)
        await idle_with_pings(gateway, sockets, table)
        await drain(gateway, sockets, table)
        if not table.is_good:
            gateway.show_log()
    rows = []
    async with Gateway("--workers", "2", "--echo", "--compression", compression) as gateway:
        await say_too_much(gateway, table, deflate)
        for name in PROXIES:
            after, ended = await idle_without_pings(gateway, table, name, deflate)
            number = await version(name)
            rows.append((name, number, compression, "kept", f"cut after {after}", ended))
    return rows


async def matrix(kinds: list[Kind], compression: str) -> tuple[Table, list[tuple[str, ...]]]:
    """Runs it, with compression beside without it, where it is on. The table of the peers, and the
    one of the proxies with its heading."""
    forms = [False, True] if compression == "on" else [False]
    proxies = [
        (
            *("proxy", "version", "compression", "pings each 500 ms", "pings each 25 s"),
            "what the gateway counts",
        )
    ]
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(start(kind)) for kind in kinds]
        table = Table(dict(zip(peers, kinds, strict=True)), forms)
        for form in forms:
            proxies += await run_form(table, form)
    return table, proxies
