"""The peer `aiohttp` (PyPI)."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from lines import commands, payload, say, say_message

# The closing of a socket while it is under way.
closings: dict[int, asyncio.Task] = {}


async def follow(number: int, socket: ClientWebSocketResponse) -> None:
    """Tells of what it receives until it ends."""
    reason = ""
    while True:
        message = await socket.receive()
        match message.type:
            case WSMsgType.TEXT | WSMsgType.BINARY:
                say_message(number, message.data)
            case WSMsgType.CLOSING:
                # `close` reads the other side's frame itself, and forgets its reason.
                await asyncio.wait_for(closings.pop(number), 30)
                break
            case _:
                reason = message.extra or ""
                break
    code = socket.close_code or 1006
    say({"is": "closed", "id": number, "code": code, "reason": reason})


async def close(socket: ClientWebSocketResponse, command: dict) -> None:
    await socket.close(code=command["code"], message=command["reason"].encode())


async def main() -> None:
    say({"peer": "aiohttp", "version": aiohttp.__version__})
    sockets: dict[int, ClientWebSocketResponse] = {}
    tasks = set()
    async with ClientSession() as session:
        async for command in commands():
            number = command["id"]
            match command["do"]:
                case "open":
                    options = {
                        "protocols": command.get("protocols", ()),
                        "compress": 15 if command.get("compression") else 0,
                    }
                    try:
                        socket = await session.ws_connect(command["url"], max_msg_size=0, **options)
                    except aiohttp.ClientError as error:
                        say({"is": "failed", "id": number, "error": str(error)})
                        continue
                    sockets[number] = socket
                    extensions = "permessage-deflate" if socket.compress else ""
                    protocol = socket.protocol or ""
                    opened = {"is": "open", "id": number}
                    say(opened | {"protocol": protocol, "extensions": extensions})
                    tasks.add(asyncio.create_task(follow(number, socket)))
                case "send":
                    message = payload(command)
                    socket = sockets[number]
                    # A socket that has ended says so itself.
                    with contextlib.suppress(ConnectionError):
                        if isinstance(message, str):
                            await socket.send_str(message)
                        else:
                            await socket.send_bytes(message)
                case "close":
                    closings[number] = asyncio.create_task(close(sockets[number], command))


asyncio.run(main())
