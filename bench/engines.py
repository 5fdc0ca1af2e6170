"""What an idle connection and a handshake cost on each engine.

    python3 bench/engines.py target/bench-fast --rounds 3

Starts the gateway of that directory on one core on each engine in turn, and has ringway-bench open
idle connections from another core. Prints medians with least and most: user memory of a connection
(the slope behind the first third), the kernel's slab for the server's end of it, and handshakes for a
second of the server's CPU. About half a minute a run. Slab figures need root; whatever else opens sockets
meanwhile shows in them. Not a check of ringway-bench: nothing is promised of the engines beside each
other.
"""

from rounds import all_rounds, handshakes, measure, spread

ENGINES = ("ring", "tokio-uring", "epoll")
# After 10 s the latency log encodes its first interval, in memory that connections have no part in.
SETTLE_SECONDS = 12
COLUMNS = ("user memory", "kernel memory", "handshakes per CPU second")


def run(directory, engine, connections):
    """One run: bytes of user memory, bytes of slab, handshakes for a second of CPU."""
    load = ["--scenario", "idle", "--connections", str(connections), "--duration", "1s"]
    report = measure(directory, ["--engine", engine], "/ws/room", load, SETTLE_SECONDS)
    memory = report["memory"]
    return (
        memory["pss_bytes_per_connection"],
        memory["slabs"] and memory["slabs"]["server_bytes_per_connection"],
        handshakes(report),
    )


def main():
    runs = all_rounds(__doc__.splitlines()[0], ENGINES, run, rounds=3)
    print("| engine |", " | ".join(COLUMNS), "|")
    print("|---|---|---|---|")
    for engine in ENGINES:
        print(f"| `{engine}` |", " | ".join(map(spread, zip(*runs[engine]))), "|")


main()
