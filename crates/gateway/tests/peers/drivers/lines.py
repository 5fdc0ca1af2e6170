"""The lines of `peer.py` for peers in Python: commands from standard input to the functions of a
client library, events to standard output."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
from collections.abc import AsyncIterator

LINE_BYTES_MAX = 32 << 20

# A line is written whole, whichever threads there are.
WRITING = threading.Lock()


def say(event: dict[str, object]) -> None:
    """Writes one event."""
    with WRITING:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def say_message(number: int, payload: str | bytes) -> None:
    """Writes the event of a message."""
    if isinstance(payload, str):
        say({"is": "message", "id": number, "text": payload})
    else:
        say({"is": "message", "id": number, "binary": base64.b64encode(payload).decode()})


def payload(command: dict) -> str | bytes:
    """What a command "send" sends."""
    return command["text"] if "text" in command else base64.b64decode(command["binary"])


async def commands() -> AsyncIterator[dict]:
    """The commands, until the input ends."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)
