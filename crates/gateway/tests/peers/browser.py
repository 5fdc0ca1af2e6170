"""Headless Chromium, driven over its DevTools protocol: what is needed to look at a page."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType

from websockets.asyncio.client import ClientConnection, connect

from drivers.headless import FLAGS
from gateway import PATIENCE


class Browser:
    """A browser with one tab. It ends with its `async with`."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict]] = {}
        # Every event of the domains that are enabled, in order.
        self.events: list[dict] = []

    async def __aenter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = await asyncio.create_subprocess_exec(
            *("chromium", *FLAGS, f"--user-data-dir={self._profile.name}"),
            *("--remote-debugging-port=0", "--hide-scrollbars"),
            # Somebody else's site, which names this machine.
            *("--host-resolver-rules=MAP evil.example 127.0.0.1", "about:blank"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            self._socket = await asyncio.wait_for(self._attach(), PATIENCE)
        except BaseException:
            await self._end()
            raise
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._end()

    async def _attach(self) -> ClientConnection:
        port_file = Path(self._profile.name) / "DevToolsActivePort"
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if self._process.returncode is not None:
                raise RuntimeError("Chromium has ended")
            await asyncio.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
            tab = next(it for it in json.load(answer) if it["type"] == "page")
        return await connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None)

    async def _end(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        self._profile.cleanup()

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self.events.append(message)

    async def call(self, method: str, **parameters: object) -> dict:
        """One command, and its result."""
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        answer = await asyncio.wait_for(self._answers[number], PATIENCE)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    async def value(self, expression: str) -> object:
        """What an expression is on the page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, f"{expression}: {result}"
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true on the page."""
        until = asyncio.get_running_loop().time() + PATIENCE
        while not await self.value(expression):
            if asyncio.get_running_loop().time() > until:
                text = await self.value("document.body.innerText")
                raise TimeoutError(f"never: {expression}; the page says:\n{text}")
            await asyncio.sleep(0.05)

    async def look(self, width: int, height: int, scheme: str) -> None:
        """The page gets this width and height, and these colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if width < 600 else 1}
        await self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
