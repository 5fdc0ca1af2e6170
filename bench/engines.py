"""What an idle connection and a handshake cost on each engine.

    python3 bench/engines.py target/bench-fast --rounds 3

Starts the gateway of that directory on one core on each engine in turn, and has ringway-bench open
idle connections from another core. Prints medians with least and most: user memory of a connection
(the slope behind the first third), the kernel's slab for the server's end of it, and handshakes for a
second of the server's CPU. About half a minute a run. Slab figures need root; whatever else opens sockets
meanwhile shows in them. Not a check of ringway-bench: nothing is promised of the engines beside each
other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ENGINES = ("ring", "tokio-uring", "epoll")
# After 10 s the latency log encodes its first interval, in memory that connections have no part in.
START_SECONDS = 12
COLUMNS = ("user memory", "kernel memory", "handshakes per CPU second")


def run(directory, engine, connections):
    """One run: bytes of user memory, bytes of slab, handshakes for a second of CPU."""
    binary, bench = (os.path.join(directory, name) for name in ("ringway", "ringway-bench"))
    serve = [binary, "serve", "--engine", engine, "--cores", "0", "--workers", "1", "--admin", "off"]
    serve += ["--connections-max", "19000", "--listen", "127.0.0.1:0", "--log", "json"]
    with tempfile.NamedTemporaryFile() as report, subprocess.Popen(
        serve, stderr=subprocess.PIPE, text=True
    ) as gateway:
        try:
            lines = map(json.loads, gateway.stderr)
            address = next(line["address"] for line in lines if line["message"] == "listening")
            time.sleep(START_SECONDS)
            load = [bench, "load", "--url", f"ws://{address}/ws/room", "--scenario", "idle"]
            load += ["--connections", str(connections), "--duration", "1s", "--core", "1"]
            load += ["--pid", str(gateway.pid), "--json", report.name]
            subprocess.run(load, stdout=subprocess.DEVNULL, timeout=120, check=True)
        finally:
            gateway.kill()
        figures = json.load(report)
    slabs = figures["memory"]["slabs"]
    return (
        figures["memory"]["pss_bytes_per_connection"],
        slabs and slabs["server_bytes_per_connection"],
        1e6 / figures["connecting"]["server_us_per_handshake"],
    )


def spread(figures):
    """Median, least and most of what was measured."""
    if None in figures:
        return "–"
    median, least, most = statistics.median(figures), min(figures), max(figures)
    return f"{median:,.0f} ({least:,.0f} – {most:,.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="where ringway and ringway-bench are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=15_000)
    options = parser.parse_args()
    runs = {engine: [] for engine in ENGINES}
    print("load average", *os.getloadavg(), file=sys.stderr)
    for _ in range(options.rounds):
        for engine in ENGINES:
            runs[engine].append(run(options.directory, engine, options.connections))
    print("| engine |", " | ".join(COLUMNS), "|")
    print("|---|---|---|---|")
    for engine in ENGINES:
        print(f"| `{engine}` |", " | ".join(map(spread, zip(*runs[engine]))), "|")


main()
