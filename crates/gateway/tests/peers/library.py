"""The client libraries that there is a peer for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from peer import Peer

DRIVERS = Path(__file__).parent / "drivers"


@dataclass(frozen=True)
class Kind:
    """What starts a peer, and what its library does where the RFC leaves it free."""

    command: tuple[str | Path, ...]
    # Whether it accepts a handshake that answers none of the subprotocols it has offered.
    opens_without_protocol: bool


def python(name: str) -> tuple[str | Path, ...]:
    return sys.executable, DRIVERS / f"{name}.py"


KINDS = {
    "websockets": Kind(python("python_websockets"), opens_without_protocol=True),
    "ws": Kind(("node", DRIVERS / "node.mjs", "ws"), opens_without_protocol=False),
    "undici": Kind(("node", DRIVERS / "node.mjs", "undici"), opens_without_protocol=False),
    "aiohttp": Kind(python("python_aiohttp"), opens_without_protocol=True),
    "websocket-client": Kind(python("python_websocket_client"), opens_without_protocol=False),
    "picows": Kind(python("python_picows"), opens_without_protocol=True),
    "chromium": Kind(python("chromium"), opens_without_protocol=False),
}


def start(kind: Kind) -> Peer:
    """A peer of this kind, to be started by `async with`."""
    return Peer(*kind.command)
