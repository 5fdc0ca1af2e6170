"""The client libraries that there is a peer for."""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from peer import Peer

DRIVERS = Path(__file__).parent / "drivers"
ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Kind:
    """What starts a peer, and what its library does where the RFC leaves it free."""

    command: tuple[str | Path, ...]
    # Whether it accepts a handshake that answers none of the subprotocols it has offered.
    opens_without_protocol: bool
    # Whether it can offer permessage-deflate.
    compresses: bool


def python(name: str, **traits: bool) -> Kind:
    return Kind((sys.executable, DRIVERS / f"{name}.py"), **traits)


def node(name: str, **traits: bool) -> Kind:
    return Kind(("node", DRIVERS / "node.mjs", name), **traits)


def rust(name: str, **traits: bool) -> Kind:
    return Kind((os.environ["RINGWAY_RUST_PEER"], name, locked(name)), **traits)


def locked(package: str) -> str:
    """The version of a package in the workspace's lock file."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    [version] = [found["version"] for found in packages if found["name"] == package]
    return version


KINDS = {
    "websockets": python("python_websockets", opens_without_protocol=True, compresses=True),
    "aiohttp": python("python_aiohttp", opens_without_protocol=True, compresses=True),
    "websocket-client": python(
        "python_websocket_client", opens_without_protocol=False, compresses=False
    ),
    "picows": python("python_picows", opens_without_protocol=True, compresses=False),
    "ws": node("ws", opens_without_protocol=False, compresses=True),
    "undici": node("undici", opens_without_protocol=False, compresses=True),
    "tungstenite": rust("tungstenite", opens_without_protocol=False, compresses=False),
    "tokio-websockets": rust("tokio-websockets", opens_without_protocol=True, compresses=False),
    "fastwebsockets": rust("fastwebsockets", opens_without_protocol=True, compresses=False),
    "chromium": python("chromium", opens_without_protocol=False, compresses=True),
}


def start(kind: Kind) -> Peer:
    """A peer of this kind, to be started by `async with`."""
    return Peer(*kind.command)
