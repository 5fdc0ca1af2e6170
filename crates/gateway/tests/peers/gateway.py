"""The real binary on ports of its own, and its control plane. It ends with its `async with`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

# Whatever is awaited comes within this, in seconds, or the suite fails.
PATIENCE = 60.0

# Lines of the log that are kept to be shown with a failure.
LOG_LINES_MAX = 200

Stats = dict


class Gateway:
    """A running `ringway serve`."""

    def __init__(
        self,
        *flags: str,
        limits: dict[str, int] | None = None,
        listen: tuple[str, ...] = ("127.0.0.1:0",),
    ) -> None:
        """These flags stand beside those for its ports; `limits` go into `[limits]`. `data` is the
        last of its listeners."""
        self._flags = [*(f"--listen={address}" for address in listen), *flags]
        self._limits = limits or {}
        self.log: list[str] = []
        self.version = ""
        # Addresses, as HOST:PORT.
        self.data = ""
        self.admin = ""

    async def __aenter__(self) -> Gateway:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGWAY_")}
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write("[limits]\n")
            file.writelines(f"{name} = {value}\n" for name, value in self._limits.items())
            file.flush()
            self._process = await asyncio.create_subprocess_exec(
                os.environ["RINGWAY_BINARY"],
                *("serve", "--admin", "127.0.0.1:0"),
                *("--log", "json", "--config", file.name, *self._flags),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                await asyncio.wait_for(self._read_start(), PATIENCE)
            except BaseException:
                await self._end()
                raise
        self._reader = asyncio.create_task(self._read_log())
        return self

    async def __aexit__(self, error: type | None, *_: object) -> None:
        await self._end()
        await self._reader
        if error:
            self.show_log()

    def show_log(self) -> None:
        """Prints what it has said, to explain a failure."""
        print("the gateway's log:", *self.log, sep="\n    ", file=sys.stderr)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def terminate(self) -> None:
        """Tells it to drain and end."""
        self._process.terminate()

    async def ended(self) -> None:
        """Waits until it has ended; then `log` is whole."""
        await asyncio.wait_for(asyncio.gather(self._process.wait(), self._reader), PATIENCE)

    async def _end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _read_start(self) -> None:
        while not (self.data and self.admin):
            line = await self._line()
            if not line:
                raise RuntimeError("ringway did not start:\n" + "\n".join(self.log))
            fact = json.loads(line)
            if fact["message"] == "listening":
                setattr(self, fact["plane"], fact["address"])
            elif fact["message"] == "ringway":
                self.version = fact["version"]

    async def _read_log(self) -> None:
        while await self._line():
            del self.log[:-LOG_LINES_MAX]

    async def _line(self) -> str:
        assert self._process.stderr
        line = (await self._process.stderr.readline()).decode()
        if line:
            self.log.append(line.rstrip())
        return line

    async def http(self, method: str, path: str, body: bytes | None = None) -> dict:
        """Asks the control plane; anything but 200 raises `urllib.error.HTTPError`."""

        def ask() -> dict:
            request = urllib.request.Request(f"http://{self.admin}{path}", body, method=method)
            # Without a content type, which urllib would set: text is what is valid UTF-8.
            request.add_header("Content-Type", "text/plain")
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.load(response)

        return await asyncio.to_thread(ask)

    async def publish(self, topic: str, payload: str | bytes) -> int:
        """Publishes text or binary, and returns the number of receivers."""
        kind = "text" if isinstance(payload, str) else "binary"
        body = payload.encode() if isinstance(payload, str) else payload
        while True:
            try:
                answer = await self.http("POST", f"/publish/{topic}?as={kind}", body)
                return answer["receivers"]
            except urllib.error.HTTPError as error:
                # No room anywhere: safe to repeat, as the reference says.
                if error.code != 429:
                    raise

    async def stats_until(self, wanted: Callable[[Stats], bool]) -> Stats:
        """`/stats`, once `wanted` holds of reports that every worker made after this call: one that
        arrives after it may have been on its way before, the next one was not."""
        called = time.monotonic()
        firsts: dict[int, float] = {}
        while True:
            stats = await self.http("GET", "/stats")
            now = time.monotonic()
            fresh = True
            for worker in stats["workers"]:
                came = now - worker["report_age_seconds"]
                if came > called:
                    firsts.setdefault(worker["worker"], came)
                # The ages are read at slightly different moments; reports are a second apart.
                fresh &= came > firsts.get(worker["worker"], now) + 0.5
            if fresh and wanted(stats):
                return stats
            if now > called + PATIENCE:
                raise TimeoutError(json.dumps(stats))
            await asyncio.sleep(0.05)

    async def connections(self, in_all: int) -> list[int]:
        """Open connections of each worker, once there are so many in all."""

        def counts(stats: Stats) -> list[int]:
            return [worker["connections"] for worker in stats["workers"]]

        return counts(await self.stats_until(lambda stats: sum(counts(stats)) == in_all))

    def has_receives_armed(self) -> bool:
        """Whether receives wait in the kernel, which only multishots do; other connections at rest
        are polled."""
        armed = ""
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            if "io_uring" not in os.readlink(fd):
                continue
            # The kernel leaves the list out while the ring is in use.
            ring = ""
            while "PollList:" not in ring:
                ring = Path(f"/proc/{self.pid}/fdinfo/{fd.name}").read_text()
            armed += ring
        # IORING_OP_RECV of the kernel's interface.
        return "op=27," in armed


def total(stats: Stats, *path: str) -> int:
    """A number summed over the workers of `/stats`."""
    whole = 0
    for value in stats["workers"]:
        for name in path:
            value = value[name]
        whole += value
    return whole
