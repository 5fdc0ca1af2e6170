"""The peer `websocket-client` (PyPI): blocking, so a thread for each socket."""

from __future__ import annotations

import contextlib
import json
import sys
import threading

import websocket
from lines import payload, say, say_message
from websocket import ABNF, WebSocket


def follow(number: int, socket: WebSocket) -> None:
    """Tells of what it receives until it ends."""
    code, reason = 1006, ""
    try:
        while True:
            opcode, frame = socket.recv_data_frame(control_frame=True)
            if opcode == ABNF.OPCODE_TEXT:
                say_message(number, frame.data.decode())
            elif opcode == ABNF.OPCODE_BINARY:
                say_message(number, frame.data)
            elif opcode == ABNF.OPCODE_CLOSE:
                code = int.from_bytes(frame.data[:2]) if frame.data else 1005
                reason = frame.data[2:].decode()
                break
    except (OSError, websocket.WebSocketException):
        pass
    socket.shutdown()
    say({"is": "closed", "id": number, "code": code, "reason": reason})


def main() -> None:
    say({"peer": "websocket-client", "version": websocket.__version__})
    sockets: dict[int, WebSocket] = {}
    for line in sys.stdin:
        command = json.loads(line)
        number = command["id"]
        match command["do"]:
            case "open":
                socket = WebSocket(enable_multithread=True)
                try:
                    socket.connect(command["url"], subprotocols=command.get("protocols"))
                except (OSError, websocket.WebSocketException) as error:
                    say({"is": "failed", "id": number, "error": str(error)})
                    continue
                sockets[number] = socket
                protocol = socket.getsubprotocol() or ""
                say({"is": "open", "id": number, "protocol": protocol, "extensions": ""})
                threading.Thread(target=follow, args=(number, socket), daemon=True).start()
            case "send":
                message = payload(command)
                # A socket that has ended says so itself.
                with contextlib.suppress(OSError, websocket.WebSocketException):
                    if isinstance(message, str):
                        sockets[number].send_text(message)
                    else:
                        sockets[number].send_binary(message)
            case "close":
                sockets[number].send_close(command["code"], command["reason"].encode())


main()
