"""The peer libwebsockets: `libwebsockets.c`, built by `run`, holds the sockets; this hands its lines
on."""

from __future__ import annotations

import asyncio
import base64
import os
from urllib.parse import urlsplit

from lines import LINE_BYTES_MAX, commands, payload, say, say_message


def encode(payload: str | bytes) -> str:
    """As the program takes it."""
    return base64.b64encode(payload.encode() if isinstance(payload, str) else payload).decode() or "-"


def decode(word: str) -> bytes:
    """What the program has encoded."""
    return b"" if word == "-" else base64.b64decode(word)


def words(command: dict) -> list[str]:
    """A command as the program takes it."""
    match command["do"]:
        case "open":
            url = urlsplit(command["url"])
            path = f"{url.path}?{url.query}" if url.query else url.path
            protocols = ",".join(command.get("protocols", [])) or "-"
            return ["open", url.hostname, str(url.port), path, protocols]
        case "send":
            message = payload(command)
            return ["text" if isinstance(message, str) else "binary", encode(message)]
        case "close":
            return ["close", str(command["code"]), encode(command["reason"])]
    raise ValueError(command)


async def follow(output: asyncio.StreamReader) -> None:
    """Hands on what the program says."""
    while line := await output.readline():
        kind, number, *rest = line.decode().split()
        event = {"is": kind, "id": int(number)}
        match kind:
            case "open":
                say(event | {"protocol": decode(rest[0]).decode(), "extensions": ""})
            case "text":
                say_message(int(number), decode(rest[0]).decode())
            case "binary":
                say_message(int(number), decode(rest[0]))
            case "closed":
                # 0: it does not tell.
                code = int(rest[0]) or None
                say(event | {"code": code, "reason": decode(rest[1]).decode()})
            case "failed":
                say(event | {"error": decode(rest[0]).decode()})


async def main() -> None:
    program = await asyncio.create_subprocess_exec(
        os.environ["RINGWAY_LIBWEBSOCKETS_PEER"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    _, version = (await program.stdout.readline()).decode().split()
    say({"peer": "libwebsockets", "version": version.rstrip("-")})
    following = asyncio.create_task(follow(program.stdout))
    async for command in commands():
        first, *rest = words(command)
        line = " ".join([first, str(command["id"]), *rest])
        program.stdin.write(line.encode() + b"\n")
        await program.stdin.drain()
    program.stdin.close()
    await program.wait()
    await following


asyncio.run(main())
