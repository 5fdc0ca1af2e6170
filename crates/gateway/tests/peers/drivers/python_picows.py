"""The peer `picows` (PyPI). It gives frames; each of the gateway's is a message."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version

from lines import commands, payload, say, say_message
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

FRAME_BYTES_MAX = 64 << 20


class Listener(WSListener):
    """Tells of what a socket receives until it ends."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.end = (1006, "")

    def on_ws_connected(self, transport: WSTransport) -> None:
        headers = transport.response.headers
        protocol = headers.get("Sec-WebSocket-Protocol", "")
        extensions = headers.get("Sec-WebSocket-Extensions", "")
        say({"is": "open", "id": self.number, "protocol": protocol, "extensions": extensions})

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        assert frame.fin
        match frame.msg_type:
            case WSMsgType.TEXT:
                say_message(self.number, frame.get_payload_as_utf8_text())
            case WSMsgType.BINARY:
                say_message(self.number, frame.get_payload_as_bytes())
            case WSMsgType.CLOSE:
                self.end = (int(frame.get_close_code()) or 1005, frame.get_close_reason() or "")
                if not transport.is_close_frame_sent:
                    transport.send_close(frame.get_close_code())
                transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        code, reason = self.end
        say({"is": "closed", "id": self.number, "code": code, "reason": reason})


async def main() -> None:
    # It warns of every pause in writing a large message.
    logging.getLogger("picows").setLevel(logging.ERROR)
    say({"peer": "picows", "version": version("picows")})
    transports: dict[int, WSTransport] = {}
    async for command in commands():
        number = command["id"]
        match command["do"]:
            case "open":
                headers = {}
                if protocols := command.get("protocols"):
                    headers["Sec-WebSocket-Protocol"] = ", ".join(protocols)
                options = {"extra_headers": headers, "max_frame_size": FRAME_BYTES_MAX}
                try:
                    transports[number], _ = await ws_connect(
                        lambda number=number: Listener(number), command["url"], **options
                    )
                except (OSError, WSError) as error:
                    say({"is": "failed", "id": number, "error": str(error)})
            case "send":
                message = payload(command)
                if isinstance(message, str):
                    transports[number].send(WSMsgType.TEXT, message.encode())
                else:
                    transports[number].send(WSMsgType.BINARY, message)
            case "close":
                transports[number].send_close(command["code"], command["reason"].encode())


asyncio.run(main())
