"""The peer `websockets` (PyPI)."""

from __future__ import annotations

import asyncio
import contextlib

import websockets
from lines import commands, payload, say, say_message
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake


async def follow(number: int, socket: ClientConnection) -> None:
    """Tells of what it receives until it ends."""
    extensions = socket.response.headers.get("Sec-WebSocket-Extensions", "")
    protocol = socket.subprotocol or ""
    say({"is": "open", "id": number, "protocol": protocol, "extensions": extensions})
    try:
        while True:
            say_message(number, await socket.recv())
    except ConnectionClosed:
        pass
    say({"is": "closed", "id": number, "code": socket.close_code, "reason": socket.close_reason})


async def main() -> None:
    say({"peer": "websockets", "version": websockets.__version__})
    sockets: dict[int, ClientConnection] = {}
    tasks = set()
    async for command in commands():
        number = command["id"]
        match command["do"]:
            case "open":
                options = {"max_size": None, "subprotocols": command.get("protocols")}
                if "compression" in command:
                    options["compression"] = "deflate" if command["compression"] else None
                try:
                    sockets[number] = await connect(command["url"], proxy=None, **options)
                except (OSError, InvalidHandshake) as error:
                    say({"is": "failed", "id": number, "error": str(error)})
                    continue
                tasks.add(asyncio.create_task(follow(number, sockets[number])))
            case "send":
                # A socket that has ended says so itself.
                with contextlib.suppress(ConnectionClosed):
                    await sockets[number].send(payload(command))
            case "close":
                await sockets[number].close(command["code"], command["reason"])


asyncio.run(main())
