"""What scripts have in common that measure a gateway in several ways, one run of each a round."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def measure(directory, flags, path, load_flags, settle_seconds=0):
    """Starts the gateway of a directory on core 0 and puts a load on it from core 1: its report."""
    binary, bench = (os.path.join(directory, name) for name in ("ringway", "ringway-bench"))
    serve = [binary, "serve", "--cores", "0", "--workers", "1", "--admin", "off", *flags]
    serve += ["--connections-max", "19000", "--listen", "127.0.0.1:0", "--log", "json"]
    with tempfile.NamedTemporaryFile() as report, subprocess.Popen(
        serve, stderr=subprocess.PIPE, text=True
    ) as gateway:
        try:
            lines = map(json.loads, gateway.stderr)
            address = next(line["address"] for line in lines if line["message"] == "listening")
            time.sleep(settle_seconds)
            load = [bench, "load", "--url", f"ws://{address}{path}", "--core", "1", *load_flags]
            load += ["--pid", str(gateway.pid), "--json", report.name]
            subprocess.run(load, stdout=subprocess.DEVNULL, timeout=120, check=True)
        finally:
            gateway.kill()
        return json.load(report)


def handshakes(report):
    """For a second of the server's CPU."""
    return 1e6 / report["connecting"]["server_us_per_handshake"]


def all_rounds(title, ways, run, rounds):
    """What each way gave in each round, `run` being given directory, way and connections."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("directory", help="where ringway and ringway-bench are")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--connections", type=int, default=15_000)
    options = parser.parse_args()
    given = {way: [] for way in ways}
    print("load average", *os.getloadavg(), file=sys.stderr)
    for _ in range(options.rounds):
        for way in ways:
            given[way].append(run(options.directory, way, options.connections))
    return given


def spread(figures, digits=0):
    """Median, least and most of what was measured."""
    if None in figures:
        return "–"
    median, least, most = statistics.median(figures), min(figures), max(figures)
    return f"{median:,.{digits}f} ({least:,.{digits}f} – {most:,.{digits}f})"
