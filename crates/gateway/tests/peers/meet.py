"""Clients of every kind, each kind on both workers, meet on one topic. What each of them says and
what is posted over HTTP reaches all of them once, in the order of its publisher, as text or binary
as it was sent; a client that asked for `own=off` does not hear itself."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

from gateway import PATIENCE, Gateway, total
from library import Kind, start
from peer import Peer, Refused, Socket

TOPIC = "meeting"

# So many connections of a kind are opened at least; more until both workers have one.
CLIENTS_MIN = 4
CLIENTS_MAX = 40

# What each publisher says.
MESSAGES = 50
HTTP_PUBLISHERS = 2

# All that is said fits into the queue of one connection: how slow a library is, is not asked here.
FLAGS = [
    *("--workers", "2"),
    *("--send-queue-bytes-max", "8MiB", "--send-queue-total-bytes-max", "1GiB"),
    *("--write-timeout", "10m", "--ping-interval", "0"),
]


def message(publisher: int, number: int) -> str | bytes:
    """Even ones are text, of every length of UTF-8, odd ones binary, of every byte."""
    text = f"{publisher}:{number}:"
    if number % 2 == 0:
        return text + "aé€😀" * number
    return text.encode() + bytes(range(256))


async def gather(peers: list[Peer], gateway: Gateway) -> list[Socket]:
    """Opens connections of each kind until `/stats` proves that it is on both workers. Every second
    connection does not want what it says itself."""
    sockets: list[Socket] = []
    counts = await gateway.connections(0)
    for peer in peers:
        before = counts
        count = 0
        while True:
            own = "?own=off" if len(sockets) % 2 else ""
            sockets.append(await peer.open(f"ws://{gateway.data}/ws/{TOPIC}{own}"))
            count += 1
            if count < CLIENTS_MIN:
                continue
            counts = await gateway.connections(len(sockets))
            if all(now > then for now, then in zip(counts, before, strict=True)):
                break
            if count == CLIENTS_MAX:
                raise AssertionError(f"{peer.name}: one worker gets everything: {counts}")
    return sockets


async def say(client: Socket, publisher: int) -> None:
    """All that this client has to say."""
    for number in range(MESSAGES):
        await client.send(message(publisher, number))


async def post(gateway: Gateway, publisher: int, receivers: int) -> None:
    """All that a publisher over HTTP has to say."""
    for number in range(MESSAGES):
        assert await gateway.publish(TOPIC, message(publisher, number)) == receivers


async def hear(client: Socket, publishers: set[int]) -> None:
    """Takes what is for this client, up to the end that is posted last."""
    following = dict.fromkeys(publishers, 0)
    while (payload := await client.receive()) != "end":
        head = payload[:16] if isinstance(payload, str) else payload[:16].decode("latin-1")
        publisher = int(head.split(":")[0])
        expected = message(publisher, following[publisher])
        assert payload == expected, f"{client.peer.name}: {payload!r} instead of {expected!r}"
        following[publisher] += 1
    missing = {publisher: n for publisher, n in following.items() if n != MESSAGES}
    assert not missing, f"{client.peer.name}: of these not all came: {missing}"


async def converse(gateway: Gateway, clients: list[Socket]) -> None:
    """Everybody says all there is to say at once, and hears it."""
    everybody = set(range(len(clients) + HTTP_PUBLISHERS))
    async with asyncio.TaskGroup() as listeners:
        for number, client in enumerate(clients):
            listeners.create_task(hear(client, everybody - ({number} if number % 2 else set())))
        async with asyncio.TaskGroup() as speakers:
            for number, client in enumerate(clients):
                speakers.create_task(say(client, number))
            for publisher in range(len(clients), len(everybody)):
                speakers.create_task(post(gateway, publisher, len(clients)))
        # Orders are kept of one publisher only: the end is posted when all else was taken.
        taken = len(clients) * MESSAGES
        await gateway.stats_until(lambda stats: total(stats, "messages_received") == taken)
        await gateway.publish(TOPIC, "end")

    # A message that came twice would be counted here, even behind the end.
    without = len(clients) // 2
    expected = len(clients) * (len(everybody) * MESSAGES + 1) - without * MESSAGES
    stats = await gateway.stats_until(lambda stats: total(stats, "fanout_jobs") == 0)
    assert total(stats, "messages_delivered") == expected, stats
    assert total(stats, "messages_dropped") == 0, stats


def answer(gateway: Gateway, offered: str) -> tuple[int, str | None]:
    """Status and subprotocol that a bare handshake gets."""
    host, port = gateway.data.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as stream:
        stream.sendall(
            (
                f"GET /ws/{TOPIC} HTTP/1.1\r\nHost: {gateway.data}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                f"Sec-WebSocket-Protocol: {offered}\r\n\r\n"
            ).encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            more = stream.recv(4096)
            assert more, "the handshake was cut"
            head += more
    lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split(" ")[1]), headers.get("sec-websocket-protocol")


async def negotiate(gateway: Gateway, peer: Peer, kind: Kind) -> None:
    """Subprotocols: the first known entry is answered, a token never."""
    url = f"ws://{gateway.data}/ws/{TOPIC}"
    raw, token = "ringway.raw.v1", "ringway.token.secret"
    for offered, expected in [
        ([], ""),
        ([raw], raw),
        (["unknown", raw], raw),
        ([token, raw], raw),
    ]:
        client = await peer.open(url, offered)
        assert client.protocol == expected, f"{peer.name}: {offered} → {client.protocol}"
        assert await client.close(1000, "done") == (1000, "")
    # Only unknown ones: 101 without the header. What a client makes of that is its own affair.
    try:
        client = await peer.open(url, ["unknown"])
    except Refused:
        assert not kind.opens_without_protocol, f"{peer.name} does not open"
    else:
        assert kind.opens_without_protocol, f"{peer.name} opens"
        assert client.protocol == ""
        await client.close()


async def part(clients: list[Socket]) -> None:
    """Everybody leaves and is answered with the same code."""
    for client in clients:
        code, reason = await client.close(4321, "bye")
        assert (code, reason) == (4321, ""), f"{client.peer.name}: {code} {reason}"


async def meet(kinds: list[Kind], compression: str) -> list[tuple[str, str, str]]:
    """Runs it; a line of the table for each peer. With compression some have it and some have not,
    as each library asks by itself."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(*FLAGS, "--compression", compression))
        peers = [await stack.enter_async_context(start(kind)) for kind in kinds]
        clients = await gather(peers, gateway)
        await converse(gateway, clients)
        stats = await gateway.stats_until(lambda _: True)
        mixed = 0 < total(stats, "connections_deflate") < len(clients)
        shared = 0 < total(stats, "deflated", "messages") <= total(stats, "messages_delivered")
        assert (mixed, shared) == (compression == "on",) * 2, stats
        await part(clients)
        assert answer(gateway, "unknown") == (101, None)
        assert answer(gateway, "ringway.token.secret") == (101, None)
        assert answer(gateway, "unknown, ringway.raw.v1, other") == (101, "ringway.raw.v1")
        for peer, kind in zip(peers, kinds, strict=True):
            await negotiate(gateway, peer, kind)
        rows = []
        for peer in peers:
            count = sum(client.peer is peer for client in clients)
            verdict = f"met: {count} connections on both workers"
            rows.append((peer.name, peer.version, verdict))
        return rows
