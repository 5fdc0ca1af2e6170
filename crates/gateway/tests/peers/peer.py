"""A peer: a program that holds WebSockets of one client library and is told what to do with them,
line by line. So one scenario serves every library.

A line is a JSON object. The first one out is `{"peer": NAME, "version": VERSION}`.

    in   {"do": "open", "id": N, "url": URL, "protocols": [...], "compression": true}
         {"do": "send", "id": N, "text": STRING}    or "binary": BASE64
         {"do": "close", "id": N, "code": CODE, "reason": STRING}
    out  {"is": "open", "id": N, "protocol": STRING, "extensions": STRING}
         {"is": "message", "id": N, "text": STRING}    or "binary": BASE64
         {"is": "closed", "id": N, "code": CODE, "reason": STRING}
         {"is": "failed", "id": N, "error": STRING}    instead of "open"

Without "protocols" none are offered; without "compression" the library offers what it does by
itself. "closed" says what the other side's Close frame said: 1005 is a frame without a code, 1006
no frame, null what the library does not tell of the answer to its own. The program ends when its
input does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from pathlib import Path

from gateway import PATIENCE

# A message of 16 MiB, in base64, on one line.
LINE_BYTES_MAX = 32 << 20


class Refused(Exception):
    """The connection could not be opened."""


class Peer:
    """A running peer. It ends with its `async with`."""

    def __init__(self, *command: str | Path) -> None:
        self._command = command
        self._sockets: list[Socket] = []
        self.name = Path(command[-1]).stem
        self.version = ""

    async def __aenter__(self) -> Peer:
        # A group of its own: a browser is many processes.
        self._process = await asyncio.create_subprocess_exec(
            *map(str, self._command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        try:
            first = await asyncio.wait_for(self._line(), PATIENCE)
            if first is None:
                raise RuntimeError(f"{self._command}: it ended without a word")
        except BaseException:
            await self._end()
            raise
        self.name, self.version = first["peer"], first["version"]
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            pass
        await self._end()
        await self._reader

    async def _end(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await self._process.wait()

    async def _line(self) -> dict | None:
        assert self._process.stdout
        line = await self._process.stdout.readline()
        return json.loads(line) if line else None

    async def _read(self) -> None:
        try:
            while event := await self._line():
                self._sockets[event["id"]].events.put_nowait(event)
        finally:
            for socket in self._sockets:
                socket.events.put_nowait({"is": "gone"})

    async def tell(self, command: dict) -> None:
        """Writes one line to it."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def open(
        self, url: str, protocols: list[str] | None = None, compression: bool | None = None
    ) -> Socket:
        """Opens a WebSocket, or raises `Refused`."""
        socket = Socket(self, len(self._sockets))
        self._sockets.append(socket)
        command = {"do": "open", "id": socket.id, "url": url}
        command |= {"protocols": protocols} if protocols else {}
        command |= {} if compression is None else {"compression": compression}
        await self.tell(command)
        event = await socket.event()
        if event["is"] != "open":
            raise Refused(event)
        socket.protocol, socket.extensions = event["protocol"], event["extensions"]
        return socket


class Socket:
    """One WebSocket of a peer."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.id = number
        self.events: asyncio.Queue[dict] = asyncio.Queue()
        self.protocol = ""
        self.extensions = ""

    async def event(self, patience: float = PATIENCE) -> dict:
        """The next thing that has happened to it."""
        try:
            return await asyncio.wait_for(self.events.get(), patience)
        except TimeoutError:
            raise TimeoutError(f"{self.peer.name}: nothing came in {patience} s") from None

    async def send(self, payload: str | bytes) -> None:
        """Sends text or binary."""
        if isinstance(payload, str):
            message = {"text": payload}
        else:
            message = {"binary": base64.b64encode(payload).decode()}
        await self.peer.tell({"do": "send", "id": self.id} | message)

    async def receive(self) -> str | bytes:
        """The next message, as text or binary."""
        event = await self.event()
        if event["is"] != "message":
            raise AssertionError(f"{self.peer.name}: {event} instead of a message")
        return event["text"] if "text" in event else base64.b64decode(event["binary"])

    async def closed(self) -> tuple[int | None, str]:
        """Waits for its end, which nothing may precede: code and reason."""
        event = await self.event()
        if event["is"] != "closed":
            raise AssertionError(f"{self.peer.name}: {event} instead of the end")
        return event["code"], event["reason"]

    async def close(self, code: int = 1000, reason: str = "") -> tuple[int, str]:
        """Closes it and says what the other side has answered: what it should, where that is not
        told."""
        await self.peer.tell({"do": "close", "id": self.id, "code": code, "reason": reason})
        answered, why = await self.closed()
        return code if answered is None else answered, why
