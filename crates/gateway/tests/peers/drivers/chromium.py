"""The peer Chromium, headless: it loads `page.html` from here, and the page takes its commands and
gives its events over a WebSocket of its own."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from http import HTTPStatus
from pathlib import Path

from headless import FLAGS
from lines import commands, say
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.datastructures import Headers

HERE = Path(__file__).parent

FILES = {"/": ("page.html", "text/html"), "/sockets.mjs": ("sockets.mjs", "text/javascript")}


async def version() -> str:
    """Of the browser."""
    process = await asyncio.create_subprocess_exec(
        *("chromium", "--version"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    found = re.search(r"\d+(\.\d+)+", output.decode())
    return found[0] if found else "unknown"


def page(connection: ServerConnection, request: Request) -> Response | None:
    """Serves the page and its module; the control socket goes on to its handshake."""
    if request.path == "/control":
        return None
    if request.path not in FILES:
        return connection.respond(HTTPStatus.NOT_FOUND, "")
    name, kind = FILES[request.path]
    headers = Headers({"Content-Type": kind, "Connection": "close"})
    return Response(HTTPStatus.OK, "OK", headers, (HERE / name).read_bytes())


async def follow(control: ServerConnection) -> None:
    """Hands on what the page says."""
    async for event in control:
        print(event, flush=True)


async def main() -> None:
    control: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def serve_control(connection: ServerConnection) -> None:
        control.set_result(connection)
        await follow(connection)

    options = {"process_request": page, "compression": None, "max_size": None}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with serve(serve_control, "127.0.0.1", 0, **options) as server:
            port = server.sockets[0].getsockname()[1]
            browser = await asyncio.create_subprocess_exec(
                *("chromium", *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{port}/"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            errors = asyncio.create_task(browser.stderr.read())
            gone = asyncio.create_task(browser.wait())
            await asyncio.wait([control, gone], return_when=asyncio.FIRST_COMPLETED)
            if not control.done():
                sys.exit(f"Chromium has ended: {(await errors).decode()}")
            say({"peer": "Chromium", "version": await version()})
            async for command in commands():
                await control.result().send(json.dumps(command))
            browser.terminate()
            await gone


asyncio.run(main())
