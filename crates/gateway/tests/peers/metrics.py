"""`/metrics` as Prometheus' own tool reads it, scraped again and again under load: no complaint about
names or shapes, every name of the contract there, no counter that falls, and in the end the numbers
of `/stats`."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from contextlib import AsyncExitStack

from websockets.asyncio.client import ClientConnection, connect

from gateway import PATIENCE, Gateway, Stats, total

CLIENTS = 40
MESSAGES = 25
SCRAPES_MIN = 8

# Without pings nothing is sent or received once all is said.
FLAGS = ["--workers", "2", "--ping-interval", "0"]

# The contract: names that scripts and boards are written against.
NAMES = {
    "ringway_build_info": set(),
    "ringway_connections": {"worker"},
    "ringway_connections_opened_total": set(),
    "ringway_connections_closed_total": {"reason"},
    "ringway_handshakes_refused_total": {"reason"},
    "ringway_messages_received_total": set(),
    "ringway_messages_delivered_total": set(),
    "ringway_messages_dropped_total": {"reason"},
    "ringway_received_bytes_total": set(),
    "ringway_sent_bytes_total": set(),
    "ringway_send_queue_bytes": {"worker"},
    "ringway_publications_refused_total": {"reason"},
    "ringway_stage_seconds_bucket": {"stage", "le"},
    "ringway_stage_seconds_count": {"stage"},
    "ringway_limit": {"name"},
    "ringway_report_age_seconds": {"worker"},
}
STAGES = {"handshake", "encode", "hop", "fanout", "turn", "ping"}

# Seconds, as they stand in `le`: three a decade from 1 µs to 10 s.
BOUNDS = [
    *("1e-06", "2.5e-06", "5e-06", "1e-05", "2.5e-05", "5e-05", "0.0001", "0.00025", "0.0005"),
    *("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5"),
    *("1", "2.5", "5", "10", "+Inf"),
]

SAMPLE = re.compile(r'(?P<name>[a-z0-9_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)",?')

# A name and its labels, sorted.
Key = tuple[str, tuple[tuple[str, str], ...]]


async def lint(page: bytes) -> None:
    """`promtool` says nothing about it."""
    promtool = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await promtool.communicate(page)
    assert (promtool.returncode, said) == (0, b""), said.decode()


async def scrape(gateway: Gateway) -> dict[Key, float]:
    """Every sample of the page, each once."""

    def ask() -> tuple[str, bytes]:
        with urllib.request.urlopen(f"http://{gateway.admin}/metrics", timeout=PATIENCE) as answer:
            return answer.headers["Content-Type"], answer.read()

    kind, page = await asyncio.to_thread(ask)
    assert kind == "text/plain; version=0.0.4", kind
    await lint(page)
    samples: dict[Key, float] = {}
    for line in page.decode().splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        labels = tuple(sorted(LABEL.findall(match["labels"] or "")))
        assert (match["name"], labels) not in samples, f"twice: {line}"
        samples[match["name"], labels] = float(match["value"])
    return samples


def check(samples: dict[Key, float]) -> None:
    """Names, labels and buckets are those of the contract."""
    for name, labels in NAMES.items():
        found = [dict(pairs) for other, pairs in samples if other == name]
        assert found, f"{name} is missing"
        if name != "ringway_build_info":
            assert all(set(pairs) == labels for pairs in found), f"{name}: {found}"
    for stage in STAGES:
        buckets = {
            dict(pairs)["le"]: value
            for (name, pairs), value in samples.items()
            if name == "ringway_stage_seconds_bucket" and dict(pairs)["stage"] == stage
        }
        assert [float(le) for le in buckets] == [float(le) for le in BOUNDS], buckets
        counts = list(buckets.values())
        assert counts == sorted(counts), f"{stage}: {counts}"
        assert counts[-1] == samples["ringway_stage_seconds_count", (("stage", stage),)]


def check_growth(before: dict[Key, float], after: dict[Key, float]) -> None:
    """No series is gone, and no counter has fallen."""
    assert before.keys() <= after.keys(), before.keys() - after.keys()
    growing = ("_total", "_bucket", "_count", "_sum")
    for key, value in before.items():
        assert not key[0].endswith(growing) or after[key] >= value, f"{key} has fallen"


async def load(gateway: Gateway, clients: list[ClientConnection]) -> None:
    """Everybody says something, and so does the control plane; then everybody has heard it."""

    async def hear(client: ClientConnection) -> None:
        for _ in range((CLIENTS + 1) * MESSAGES):
            await asyncio.wait_for(client.recv(), PATIENCE)

    async def say(client: ClientConnection) -> None:
        for number in range(MESSAGES):
            await client.send(f"message {number}")

    async def post() -> None:
        for number in range(MESSAGES):
            await gateway.publish("metrics", f"posted {number}")

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(hear(client))
            group.create_task(say(client))
        group.create_task(post())


def check_totals(samples: dict[Key, float], stats: Stats) -> None:
    """The page says what `/stats` says."""
    plain = {
        "ringway_connections_opened_total": "opened",
        "ringway_messages_received_total": "messages_received",
        "ringway_messages_delivered_total": "messages_delivered",
        "ringway_received_bytes_total": "received_bytes",
        "ringway_sent_bytes_total": "sent_bytes",
    }
    for name, field in plain.items():
        assert samples[name, ()] == total(stats, field), name
    for name, field in (
        ("ringway_connections_closed_total", "closed"),
        ("ringway_handshakes_refused_total", "refused"),
        ("ringway_messages_dropped_total", "dropped"),
    ):
        for reason in stats["workers"][0][field]:
            counted = samples[name, (("reason", reason),)]
            assert counted == total(stats, field, reason), f"{name} {reason}"


async def metrics() -> list[tuple[str, ...]]:
    """What was scraped, as a row."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(*FLAGS))
        url = f"ws://{gateway.data}/ws/metrics"
        clients = [await stack.enter_async_context(connect(url)) for _ in range(CLIENTS)]
        await gateway.connections(CLIENTS)
        before = await scrape(gateway)
        check(before)
        loading = asyncio.create_task(load(gateway, clients))
        scrapes = 1
        while not loading.done() or scrapes < SCRAPES_MIN:
            after = await scrape(gateway)
            check(after)
            check_growth(before, after)
            before = after
            scrapes += 1
        await loading
        delivered = CLIENTS * (CLIENTS + 1) * MESSAGES
        stats = await gateway.stats_until(
            lambda stats: total(stats, "messages_delivered") == delivered
        )
        after = await scrape(gateway)
        check_growth(before, after)
        check_totals(after, stats)
        return [(str(scrapes + 1), str(len(after)), str(delivered), "ok")]
