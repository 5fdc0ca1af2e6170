"""Tokens that PyJWT has made, of each algorithm, against the real binary: let in by every entry,
with keys in a set and in files of their own; refused for every reason, with the answer and what it
is counted as; at their end while connected. None stands in the log."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import algorithms
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import LOG_LINES_MAX, PATIENCE, Gateway, Stats, total

ISSUER, AUDIENCE = "https://issuer.example", "ringway"
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")

# How long those who are closed at their token's end may stay, in seconds: all are in before that.
LIFE = 4

# What signs: a secret, or a private key.
Signing = bytes | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Issuer:
    """One key for each algorithm, made anew, and tokens of them."""

    def __init__(self) -> None:
        self.keys: dict[str, Signing] = {
            "HS256": b"a secret of as many bytes as the hash of HS512 has, for PyJWT warns",
            "RS256": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }
        # Each that was ever made.
        self.issued: list[str] = []

    def file(self, algorithm: str) -> bytes:
        """What verifies tokens of this algorithm, as `--token-key-file` wants it."""
        key = self.keys[algorithm]
        if isinstance(key, bytes):
            return key
        return key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def key_set(self) -> bytes:
        """All of them as a JWK set; the `kid` is the algorithm."""
        known = algorithms.get_default_algorithms()
        keys = []
        for name, key in self.keys.items():
            public = key if isinstance(key, bytes) else key.public_key()
            jwk = known[name].to_jwk(public, as_dict=True)
            jwk.pop("key_ops", None)
            keys.append(jwk | {"kid": name, "alg": name, "use": "sig"})
        return json.dumps({"keys": keys}).encode()

    def token(self, key: str, algorithm: str | None = None, **changes: object) -> str:
        """A token that is good but for what is changed; a claim that is `None` is left out. It is
        signed with the key of one algorithm, as that one if no other is named."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "alice",
            "exp": int(time.time()) + 600,
            "topics": ["news", "room/*"],
            "publish": ["news"],
        }
        claims = {name: it for name, it in (claims | changes).items() if it is not None}
        signing = None if algorithm == "none" else self.keys[key]
        token = jwt.encode(claims, signing, algorithm or key, headers={"kid": key})
        self.issued.append(token)
        return token

    def confused(self, kid: str) -> str:
        """Signed by HS256 with the public key of RS256 for a secret (RFC 8725 section 2.1). PyJWT
        refuses to, so the signature is put there."""
        token = self.token("HS256")
        _, claims, _ = token.split(".")
        header = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode())
        signature = hmac.digest(self.file("RS256"), f"{header}.{claims}".encode(), "sha256")
        self.issued.append(f"{header}.{claims}.{encoded(signature)}")
        return self.issued[-1]


def encoded(content: bytes) -> str:
    """As parts of a token are (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


# An entry by which a token comes: what opens a connection with it.
Entry = Callable[[str, str], connect]

ENTRIES: dict[str, Entry] = {
    "query": lambda url, token: connect(f"{url}?token={token}", proxy=None),
    "bearer": lambda url, token: connect(
        url, proxy=None, additional_headers={"Authorization": f"Bearer {token}"}
    ),
    "subprotocol": lambda url, token: connect(
        url, proxy=None, subprotocols=["ringway.raw.v1", f"ringway.token.{token}"]
    ),
}


async def works(client: ClientConnection) -> None:
    """It may publish to its topic, and hears what it has said."""
    assert client.subprotocol in (None, "ringway.raw.v1"), "a token is never echoed"
    await client.send("hello")
    heard = await asyncio.wait_for(client.recv(), PATIENCE)
    assert heard == "hello", heard


async def status(entry: Entry, url: str, token: str) -> int:
    """What a handshake with this token is told; 101 where it is let in."""
    try:
        async with entry(url, token):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def refusals(issuer: Issuer, stranger: Issuer) -> list[tuple[str, list[str], str, int, str]]:
    """What is wrong, tokens with it, the topic that is asked for, status, counted as."""
    now = int(time.time())

    def each(**changes: object) -> list[str]:
        return [issuer.token(key, **changes) for key in ALGORITHMS]

    def signed_as(*pairs: tuple[str, str]) -> list[str]:
        return [issuer.token(key, algorithm) for key, algorithm in pairs]

    unsigned = ((key, "none") for key in ALGORITHMS)
    others = (("HS256", "HS512"), ("RS256", "RS512"), ("RS256", "PS256"))
    confused = [issuer.confused("HS256"), issuer.confused("RS256")]
    return [
        ("missing", [""], "news", 401, "token_missing"),
        ("expired", each(exp=now - 60), "news", 401, "token_expired"),
        ("not yet valid", each(nbf=now + 300), "news", 401, "token_not_yet_valid"),
        ("no exp", each(exp=None), "news", 401, "token_malformed"),
        ("wrong key", [stranger.token(it) for it in ALGORITHMS], "news", 401, "token_signature"),
        ("alg none", signed_as(*unsigned), "news", 401, "token_malformed"),
        ("HS512, RS512, PS256", signed_as(*others), "news", 401, "token_signature"),
        ("HS256 with RS256's public key", confused, "news", 401, "token_signature"),
        ("wrong audience", each(aud="somebody else"), "news", 401, "token_audience"),
        ("no audience", each(aud=None), "news", 401, "token_audience"),
        ("wrong issuer", each(iss="https://evil.example"), "news", 401, "token_issuer"),
        ("no issuer", each(iss=None), "news", 401, "token_issuer"),
        ("wrong topic", each(), "newspaper", 403, "not_allowed"),
        ("no topics", each(topics=None), "news", 403, "not_allowed"),
    ]


async def refuse(gateway: Gateway, issuer: Issuer, stranger: Issuer) -> list[tuple[str, ...]]:
    """Every refusal by every entry, and what it was counted as."""
    rows, expected = [], Counter()
    for what, tokens, topic, wanted, reason in refusals(issuer, stranger):
        url = f"ws://{gateway.data}/ws/{topic}"
        for token in tokens:
            for name, entry in ENTRIES.items():
                told = await status(entry, url, token)
                assert told == wanted, f"{what} by {name}: {told}, not {wanted}"
        tries = len(tokens) * len(ENTRIES)
        expected[reason] += tries
        rows.append((what, str(tries), str(wanted), reason))

    def are_counted(stats: Stats) -> bool:
        return all(total(stats, "refused", it) == count for it, count in expected.items())

    await asyncio.wait_for(gateway.stats_until(are_counted), PATIENCE)
    return rows


async def let_in_by_files(issuer: Issuer, stack: AsyncExitStack) -> None:
    """A key in a file of its own lets in tokens of its algorithm, and of no other."""
    for algorithm in ALGORITHMS:
        file = stack.enter_context(tempfile.NamedTemporaryFile())
        file.write(issuer.file(algorithm))
        file.flush()
        flags = ["--token-key-file", file.name, "--token-audience", AUDIENCE, "--workers", "1"]
        async with Gateway(*flags) as gateway:
            url = f"ws://{gateway.data}/ws/news"
            async with ENTRIES["query"](url, issuer.token(algorithm)) as client:
                await works(client)
            others = [issuer.token(it) for it in ALGORITHMS if it != algorithm]
            for token in [*others, issuer.confused("HS256")]:
                told = await status(ENTRIES["query"], url, token)
                assert told == 401, f"{algorithm}'s key lets in {token}"


async def end(client: ClientConnection, exp: int) -> None:
    """It is closed when its token ends, not before."""
    try:
        said = await asyncio.wait_for(client.recv(), PATIENCE)
    except ConnectionClosed:
        assert time.time() >= exp, "it was closed before its token's end"
        told = (client.close_code, client.close_reason)
        assert told == (1008, "token expired"), told
    else:
        raise AssertionError(f"{said} instead of the end")


def check_log(lines: list[str], issued: list[str]) -> None:
    """Something was logged of connections, and of no token anything but its header, which tells
    nothing."""
    assert len(lines) < LOG_LINES_MAX, "lines were lost"
    levels = {json.loads(line)["level"] for line in lines}
    assert "debug" in levels, levels
    log = "\n".join(lines)
    for token in issued:
        _, claims, signature = token.split(".")
        assert claims not in log and (not signature or signature not in log), "a token is logged"


async def tokens() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Who was let in, and who was refused, as rows."""
    issuer, stranger = Issuer(), Issuer()
    # Of RS256, ES256 and EdDSA the keys differ by themselves.
    stranger.keys["HS256"] = b"another secret of more than thirty-two bytes"
    async with AsyncExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "jwks.json"
        file.write_bytes(issuer.key_set())
        rules = ["--token-issuer", ISSUER, "--token-audience", AUDIENCE]
        gateway = await stack.enter_async_context(
            Gateway(
                *("--token-jwks-file", str(file), *rules, "--workers", "2"),
                *("--log-level", "debug", "--drain", "0s"),
            )
        )
        exp = int(time.time()) + LIFE
        short = []
        for algorithm in ALGORITHMS:
            for entry in ENTRIES.values():
                token = issuer.token(algorithm, exp=exp, topics=["room/*"])
                client = entry(f"ws://{gateway.data}/ws/room/7", token)
                short.append(await stack.enter_async_context(client))
        long = []
        for algorithm in ALGORITHMS:
            for name, entry in ENTRIES.items():
                # A topic for each, so that none hears the others.
                own = {"topics": [f"{algorithm}/{name}"], "publish": [f"{algorithm}/{name}"]}
                url = f"ws://{gateway.data}/ws/{algorithm}/{name}"
                client = entry(url, issuer.token(algorithm, **own))
                long.append(await stack.enter_async_context(client))
                await works(long[-1])
        refused = await refuse(gateway, issuer, stranger)
        await asyncio.gather(*(end(client, exp) for client in short))

        def are_counted(stats: Stats) -> bool:
            return total(stats, "closed", "token_expired") == len(short)

        await asyncio.wait_for(gateway.stats_until(are_counted), PATIENCE)
        for client in long:
            await works(client)
        await let_in_by_files(issuer, stack)
        gateway.terminate()
        await gateway.ended()
        check_log(gateway.log, issuer.issued + stranger.issued)
    told = "closed 1008 `token expired`"
    let_in = [(algorithm, "ok", *("ok" for _ in ENTRIES), told) for algorithm in ALGORITHMS]
    return let_in, refused
