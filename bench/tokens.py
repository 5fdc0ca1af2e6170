"""What tokens cost the handshakes: by algorithm, and against a gateway without.

    python3 bench/tokens.py target/bench-fast --rounds 5

Starts the gateway of that directory on one core, without keys and with the key of each algorithm in
turn, and has ringway-bench open connections from another core as fast as they are taken, all with one
good token. Prints the medians, with least and most, of the handshakes for a second of the server's CPU
and of their ratio to those without a token in the same round. About a quarter of a minute a round. The
tokens are signed by openssl with the keys of crates/tokens/tests/keys. Not a check of ringway-bench: nothing is
promised of the algorithms beside each other.
"""

import base64
import hmac
import json
import os
import subprocess
import tempfile
import time

from rounds import all_rounds, handshakes, measure, spread

KEYS = os.path.join(os.path.dirname(__file__), "..", "crates", "tokens", "tests", "keys")
SECRET = b"thirty-two bytes are the minimum"
WITHOUT = "none"
# By algorithm: the key's files, and how openssl signs with it.
PAIRS = {
    "RS256": ("rsa", ("dgst", "-sha256", "-sign")),
    "ES256": ("p256", ("dgst", "-sha256", "-sign")),
    "EdDSA": ("ed25519", ("pkeyutl", "-sign", "-rawin", "-inkey")),
}
VARIANTS = (WITHOUT, "HS256", *PAIRS)


def raw(der):
    """The two numbers of an ECDSA signature, 32 bytes each (RFC 7518 section 3.4)."""
    first = der[4 : 4 + der[3]]
    second = der[6 + der[3] :]
    return b"".join(it.lstrip(b"\0").rjust(32, b"\0") for it in (first, second))


def signature(algorithm, message):
    """Of what stands before the last point of a token."""
    if algorithm == "HS256":
        return hmac.digest(SECRET, message, "sha256")
    name, command = PAIRS[algorithm]
    with tempfile.NamedTemporaryFile() as file:
        file.write(message)
        file.flush()
        # What pkeyutl reads must be a file: it asks for its size.
        source = ("-in", file.name) if command[0] == "pkeyutl" else (file.name,)
        sign = ["openssl", *command, os.path.join(KEYS, f"{name}.pem"), *source]
        signed = subprocess.run(sign, stdout=subprocess.PIPE, check=True).stdout
    return raw(signed) if algorithm == "ES256" else signed


def token(algorithm):
    """One that is good for an hour."""
    claims = {"sub": "alice", "exp": int(time.time()) + 3600, "topics": ["room/*"], "publish": []}
    parts = [json.dumps(it).encode() for it in ({"typ": "JWT", "alg": algorithm}, claims)]
    message = b".".join(base64.urlsafe_b64encode(it).rstrip(b"=") for it in parts)
    end = base64.urlsafe_b64encode(signature(algorithm, message)).rstrip(b"=")
    return (message + b"." + end).decode()


def run(directory, algorithm, connections):
    """One run: handshakes for a second of CPU."""
    query = "" if algorithm == WITHOUT else f"?token={token(algorithm)}"
    load = ["--scenario", "storm", "--connections", str(connections)]
    with tempfile.NamedTemporaryFile() as secret:
        secret.write(SECRET)
        secret.flush()
        flags = []
        if algorithm == "HS256":
            flags = ["--token-key-file", secret.name]
        elif algorithm != WITHOUT:
            flags = ["--token-key-file", os.path.join(KEYS, f"{PAIRS[algorithm][0]}.pub.pem")]
        return handshakes(measure(directory, flags, f"/ws/room/1{query}", load))


def main():
    runs = all_rounds(__doc__.splitlines()[0], VARIANTS, run, rounds=5)
    print("| token | handshakes per CPU second | against none |")
    print("|---|---|---|")
    for algorithm in VARIANTS:
        ratios = [it / none for it, none in zip(runs[algorithm], runs[WITHOUT])]
        print(f"| {algorithm} | {spread(runs[algorithm])} | {spread(ratios, 2)} |")


main()
