"""The client libraries that there is a peer for."""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peer import Peer

DRIVERS = Path(__file__).parent / "drivers"
ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Kind:
    """What starts a peer, and what its library does where the RFC leaves it free."""

    command: tuple[str | Path, ...]
    # Whether it accepts a handshake that answers none of the subprotocols it has offered.
    opens_without_protocol: bool
    # How it uses permessage-deflate: `no`, `receives` (what it sends goes plain), `both ways`.
    deflate: Literal["no", "receives", "both ways"]
    # What it makes of the close code 1012, which was registered after RFC 6455.
    restarting: int = 1012


def python(name: str, **traits: bool | str | int) -> Kind:
    return Kind((sys.executable, DRIVERS / f"{name}.py"), **traits)


def node(name: str, **traits: bool | str) -> Kind:
    return Kind(("node", DRIVERS / "node.mjs", name), **traits)


def rust(name: str, **traits: bool | str) -> Kind:
    return Kind((os.environ["RINGWAY_RUST_PEER"], name, locked(name)), **traits)


def locked(package: str) -> str:
    """The version of a package in the workspace's lock file."""
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    [version] = [found["version"] for found in packages if found["name"] == package]
    return version


KINDS = {
    "websockets": python("python_websockets", opens_without_protocol=True, deflate="both ways"),
    "aiohttp": python("python_aiohttp", opens_without_protocol=True, deflate="both ways"),
    "websocket-client": python(
        "python_websocket_client", opens_without_protocol=False, deflate="no"
    ),
    "picows": python("python_picows", opens_without_protocol=True, deflate="no"),
    "ws": node("ws", opens_without_protocol=False, deflate="both ways"),
    "undici": node("undici", opens_without_protocol=False, deflate="receives"),
    "tungstenite": rust("tungstenite", opens_without_protocol=False, deflate="no"),
    "tokio-websockets": rust("tokio-websockets", opens_without_protocol=True, deflate="no"),
    "fastwebsockets": rust("fastwebsockets", opens_without_protocol=True, deflate="no"),
    "libwebsockets": python(
        "libwebsockets", opens_without_protocol=True, deflate="no", restarting=1002
    ),
    "chromium": python("chromium", opens_without_protocol=False, deflate="both ways"),
}


def start(kind: Kind) -> Peer:
    """A peer of this kind, to be started by `async with`."""
    return Peer(*kind.command)
