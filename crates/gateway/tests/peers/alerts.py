"""The alert rules and the board of `crates/gateway/monitoring` in Debian's Prometheus: each alert is
provoked against a running gateway, none fires for one that is well, and every query of the board has
data. Rules are loaded without their `for`, so that nobody waits."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import re
import resource
import signal
import socket
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from websockets.asyncio.client import connect

from gateway import PATIENCE, Gateway, total

MONITORING = Path(__file__).parents[2] / "monitoring"

SECRET = "a secret of at least thirty-two bytes"

# Of linux/ptrace.h.
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17

# A query of Grafana, as Prometheus understands it.
VARIABLES = {"$__rate_interval": "30s", "$instance": ".*"}


class Prometheus:
    """A server that scrapes its targets once a second. It ends with its `async with`."""

    async def __aenter__(self) -> Prometheus:
        self._directory = tempfile.TemporaryDirectory()
        self._targets = Path(self._directory.name) / "targets.json"
        self._addresses: list[str] = []
        self._write_targets()
        rules = re.sub(r"^ +for: .*\n", "", (MONITORING / "alerts.yml").read_text(), flags=re.M)
        (Path(self._directory.name) / "alerts.yml").write_text(rules)
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {
                    "job_name": "ringway",
                    "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
                }
            ],
        }
        # JSON is YAML.
        file = Path(self._directory.name) / "prometheus.yml"
        file.write_text(json.dumps(configuration))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        self._process = await asyncio.create_subprocess_exec(
            *("prometheus", f"--config.file={file}", f"--web.listen-address={self._address}"),
            *(f"--storage.tsdb.path={self._directory.name}/data", "--log.level=error"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            await until("Prometheus is ready", self._is_ready)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        self._directory.cleanup()

    def watch(self, gateway: Gateway) -> None:
        """Scrapes this one too from now on."""
        self._addresses.append(gateway.admin)
        self._write_targets()

    def _write_targets(self) -> None:
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": self._addresses}]))
        new.rename(self._targets)

    async def _is_ready(self) -> bool:
        try:
            await self.query("vector(1)")
        except (OSError, urllib.error.URLError):
            return False
        return True

    async def query(self, expression: str) -> list[dict]:
        """The samples that an expression is now."""

        def ask() -> dict:
            query = urllib.parse.urlencode({"query": expression})
            url = f"http://{self._address}/api/v1/query?{query}"
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                return json.load(response)

        answer = await asyncio.to_thread(ask)
        assert answer["status"] == "success", f"{expression}: {answer}"
        return answer["data"]["result"]

    async def fires(self, alert: str, gateway: Gateway) -> bool:
        """Whether an alert fires for this one."""
        selector = f'alertname="{alert}",alertstate="firing",instance="{gateway.admin}"'
        return bool(await self.query(f"ALERTS{{{selector}}}"))

    async def counts(self, gateway: Gateway) -> bool:
        """Whether it has been scraped twice: only then a counter can be seen to grow."""
        samples = await self.query(f'count_over_time(up{{instance="{gateway.admin}"}}[1m])')
        return bool(samples) and float(samples[0]["value"][1]) >= 2


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits for something."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not await holds():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"never: {what}")
        await asyncio.sleep(0.1)


class Halted:
    """One thread of a gateway, which is a child of ours, stands still until `release`."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        tasks = Path(f"/proc/{gateway.pid}/task").iterdir()
        threads = {(task / "comm").read_text().strip(): int(task.name) for task in tasks}
        assert name in threads, threads
        self._id = threads[name]
        self._call(PTRACE_SEIZE)
        self._call(PTRACE_INTERRUPT)
        os.waitpid(self._id, 0x40000000)  # __WALL of linux/wait.h

    def release(self) -> None:
        """It goes on."""
        self._call(PTRACE_DETACH)

    def _call(self, request: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = [ctypes.c_long(it) for it in (request, self._id, 0, 0)]
        if libc.ptrace(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")


async def ask(gateway: Gateway, target: str) -> bytes:
    """The status line of a bare handshake."""
    reader, writer = await asyncio.open_connection(*gateway.data.split(":"))
    writer.write(
        (
            f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
    )
    line = await asyncio.wait_for(reader.readline(), PATIENCE)
    writer.close()
    return line


async def deaf(gateway: Gateway, stack: AsyncExitStack) -> None:
    """A subscriber of `flood` that never reads."""
    stream = stack.enter_context(socket.socket())
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = gateway.data.split(":")
    stream.connect((host, int(port)))
    stream.sendall(
        b"GET /ws/flood HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await gateway.connections(1)


async def flood(gateway: Gateway) -> None:
    """More than a socket and its queue hold."""
    for _ in range(400):
        await gateway.publish("flood", "x" * 1000)


# How each alert is provoked. The gateway has been scraped.


async def down(gateway: Gateway, _: AsyncExitStack) -> None:
    os.kill(gateway.pid, signal.SIGKILL)


async def silent(gateway: Gateway, stack: AsyncExitStack) -> None:
    stack.callback(Halted(gateway, "ringway-1").release)


async def nearly_full(gateway: Gateway, stack: AsyncExitStack) -> None:
    url = f"ws://{gateway.data}/ws/a"
    for _ in range(10):
        await stack.enter_async_context(connect(url))


async def full(gateway: Gateway, stack: AsyncExitStack) -> None:
    await nearly_full(gateway, stack)
    line = await ask(gateway, "/ws/a")
    assert b" 503 " in line, line


async def accepts_fail(gateway: Gateway, stack: AsyncExitStack) -> None:
    # Nobody reaches the control plane either, but whom it has accepted before.
    control = http.client.HTTPConnection(gateway.admin, timeout=PATIENCE)
    stack.callback(control.close)

    def accepts_failed() -> int:
        control.request("GET", "/stats")
        return total(json.load(control.getresponse()), "engine", "accepts_failed")

    assert accepts_failed() == 0
    open_now = len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))
    _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (open_now + 4, hard))
    host, port = gateway.data.split(":")
    for _ in range(12):
        stack.enter_context(socket.create_connection((host, int(port))))

    async def has_failed() -> bool:
        return accepts_failed() > 0

    await until("an accept fails", has_failed)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (hard, hard))


async def queues(gateway: Gateway, stack: AsyncExitStack) -> None:
    await deaf(gateway, stack)
    await flood(gateway)


async def slow_consumers(gateway: Gateway, stack: AsyncExitStack) -> None:
    await deaf(gateway, stack)
    await flood(gateway)
    await gateway.stats_until(lambda stats: total(stats, "closed", "slow_consumer") == 1)


async def refused(gateway: Gateway, stack: AsyncExitStack) -> None:
    stack.callback(Halted(gateway, "ringway-1").release)
    posts = [asyncio.create_task(post(gateway)) for _ in range(8)]
    statuses = await asyncio.gather(*posts)
    assert 429 in statuses, statuses


async def post(gateway: Gateway) -> int:
    """One publication that needs room at every worker, and its status."""
    try:
        await gateway.http("POST", "/broadcast", b"x")
    except urllib.error.HTTPError as error:
        return error.code
    return 200


async def slow(gateway: Gateway, _: AsyncExitStack) -> None:
    halted = Halted(gateway, "ringway-1")
    # Fewer than `asyncio.to_thread` has threads on one core: the questions need one too.
    posts = [asyncio.create_task(post(gateway)) for _ in range(4)]

    async def are_posted() -> bool:
        latency = await gateway.http("GET", "/latency")
        return latency["stages"]["encode"]["count"] == len(posts)

    async def silence() -> float:
        stats = await gateway.http("GET", "/stats")
        return stats["workers"][1]["report_age_seconds"]

    await until("every letter is on its way", are_posted)
    posted = await silence()

    async def are_late() -> bool:
        return await silence() > posted + 1

    await until("the letters are a second old", are_late)
    halted.release()
    assert await asyncio.gather(*posts) == [200] * len(posts)


async def tokens_unknown(gateway: Gateway, _: AsyncExitStack) -> None:
    # {"alg":"HS256"}, {} and a signature of nothing.
    for _ in range(25):
        line = await ask(gateway, "/ws/a?token=eyJhbGciOiJIUzI1NiJ9.e30.AAAA")
        assert b" 401 " in line, line


async def blocks(gateway: Gateway, _: AsyncExitStack) -> None:
    await gateway.http("DELETE", "/connections?sub=somebody")


async def drains(gateway: Gateway, stack: AsyncExitStack) -> None:
    await stack.enter_async_context(connect(f"ws://{gateway.data}/ws/a"))
    gateway.terminate()


# Who never reads stays, however long it takes to publish more than it has room for.
SMALL_QUEUES = [
    *("--workers", "1", "--message-bytes-max", "1KiB"),
    *("--write-timeout", "10m", "--ping-interval", "0"),
    *("--send-queue-bytes-max", "60KiB", "--send-queue-total-bytes-max", "64KiB"),
]
ONE_TO_TEN = ("--workers", "1", "--connections-max", "10")
TWO = ("--workers", "2")

# What RingwaySlow calls slow.
SLOW_NS = 250_000_000

# By alert: what provokes it, with which flags and limits.
PROVOCATIONS: dict[str, tuple[Callable[..., Awaitable[None]], tuple[str, ...], dict[str, int]]] = {
    "RingwayDown": (down, (), {}),
    "RingwayWorkerSilent": (silent, TWO, {}),
    "RingwayNearlyFull": (nearly_full, ONE_TO_TEN, {}),
    "RingwayFull": (full, ONE_TO_TEN, {}),
    "RingwayAcceptsFail": (accepts_fail, ("--engine", "epoll", "--workers", "1"), {}),
    "RingwaySendQueuesNearlyFull": (
        queues, (*SMALL_QUEUES, "--slow-consumer", "drop-oldest"), {}
    ),
    "RingwaySlowConsumers": (slow_consumers, tuple(SMALL_QUEUES), {}),
    "RingwayPublicationsRefused": (refused, TWO, {"mesh_letters_max": 4}),
    "RingwaySlow": (slow, TWO, {}),
    "RingwayTokensUnknown": (tokens_unknown, ("--token-key-file", "KEY"), {}),
    "RingwayBlockListNearlyFull": (
        blocks, ("--token-key-file", "KEY"), {"blocked_subs_max": 1}
    ),
    "RingwayDrainsLong": (drains, ("--drain", "60s"), {}),
}


async def was_slow(gateway: Gateway) -> bool:
    """Whether this machine had so much else to do that RingwaySlow says what is true."""
    stages = (await gateway.http("GET", "/latency"))["stages"]
    return max(stages[stage]["max"] for stage in ("hop", "fanout")) > SLOW_NS


async def provoke(prometheus: Prometheus, alert: str, key: str) -> None:
    """One alert, by a gateway of its own that is well before."""
    act, flags, limits = PROVOCATIONS[alert]
    flags = tuple(key if flag == "KEY" else flag for flag in flags)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(*flags, limits=limits))
        prometheus.watch(gateway)
        await until("it is scraped twice", lambda: prometheus.counts(gateway))
        if not (alert == "RingwaySlow" and await was_slow(gateway)):
            assert not await prometheus.fires(alert, gateway), f"{alert} fires before its time"
        await act(gateway, stack)
        await until(f"{alert} fires", lambda: prometheus.fires(alert, gateway))


async def check_board(prometheus: Prometheus) -> int:
    """Every query of the board has data; returns how many there are."""
    board = json.loads((MONITORING / "grafana.json").read_text())
    expressions = [it["expr"] for panel in board["panels"] for it in panel["targets"]]
    for expression in expressions:
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert await prometheus.query(expression), f"no data: {expression}"
    return len(expressions)


async def alerts() -> list[tuple[str, ...]]:
    """What was provoked, as rows."""
    rules = (MONITORING / "alerts.yml").read_text()
    names = re.findall(r"- alert: (\w+)", rules)
    assert names == list(PROVOCATIONS), "each alert is provoked, in its order"
    rows = []
    async with AsyncExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile("w"))
        file.write(SECRET)
        file.flush()
        prometheus = await stack.enter_async_context(Prometheus())
        well = await stack.enter_async_context(Gateway())
        prometheus.watch(well)
        for alert in names:
            await provoke(prometheus, alert, file.name)
            rows.append((alert, "fired"))
        queries = await check_board(prometheus)
        rows.append((f"{queries} queries of the board", "have data"))
        ever = await prometheus.query(f'max_over_time(ALERTS{{instance="{well.admin}"}}[30m])')
        fired = {it["metric"]["alertname"] for it in ever}
        if await was_slow(well):
            fired.discard("RingwaySlow")
        assert not fired, f"who was well had alerts: {ever}"
    return rows
