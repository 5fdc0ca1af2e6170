"""What a setting is worth on this machine: runs a gateway with it and without it, in turn.

    python3 kernel-tuning/measure.py somaxconn --pairs 5 --bin target/bench-fast

Each run is in network namespaces of its own, and nothing outside of them is set; `group` makes
itself a control group and removes it. Clients that are far are in another namespace, behind the tun
devices of bench/round_trip.py. Of each figure the median, the least and the most are printed
for each side, and whether the sides overlap: where they do, no effect was seen. Needs root,
iproute2, `ringway` and `ringway-bench`, built as bench/README.md says. Nothing else may run.
"""

import argparse
import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../bench"))
import round_trip  # noqa: E402, the path to it stands above

PORT, ADMIN, NEAR = 9300, 9301, "127.0.0.1"
ROUND_TRIP_MS = 100
REQUEST = (
    "GET /ws/room HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


class Server:
    """A gateway, until the end of a `with`. Flags of the form `key = value` are bounds."""

    def __init__(self, arguments, flags, group=None, host=NEAR):
        def enter():
            if group:
                with open(f"{group}/cgroup.procs", "w", encoding="ascii") as procs:
                    procs.write(str(os.getpid()))

        command = [f"{arguments.bin}/ringway", "serve", "--listen", f"{host}:{PORT}"]
        command += ["--admin", f"127.0.0.1:{ADMIN}"]
        command += [flag for flag in flags if " = " not in flag]
        self.bounds = tempfile.NamedTemporaryFile("w", suffix=".toml")
        print("[limits]", *[flag for flag in flags if " = " in flag], sep="\n", file=self.bounds)
        self.bounds.flush()
        command += ["--config", self.bounds.name]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stderr=self.log, preexec_fn=enter)
        until = time.monotonic() + 10
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/readyz", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    self.__exit__()
                    self.log.seek(0)
                    sys.exit(self.log.read().decode())
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def publish(payload):
    """Publishes to the room, once every worker has room for it."""
    request = urllib.request.Request(f"http://127.0.0.1:{ADMIN}/publish/room", payload)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["receivers"]


def connect_all(count, on_begun=lambda: None, host=NEAR, seconds=None):
    """So many clients at once; when each had its 101, in seconds from the end of `on_begun`.

    All must, unless there are so many seconds for it."""
    poller = selectors.DefaultSelector()
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((host, PORT))
        poller.register(client, selectors.EVENT_WRITE)
        clients.append(client)
    on_begun()
    begun, times = time.monotonic(), []
    while len(times) < count:
        left = 30 if seconds is None else max(0, begun + seconds - time.monotonic())
        events = poller.select(timeout=left)
        if not events and seconds is not None:
            break
        if not events:
            sys.exit(f"{count - len(times)} clients hear nothing")
        for key, event in events:
            if event & selectors.EVENT_WRITE:
                key.fileobj.send(REQUEST)
                poller.modify(key.fileobj, selectors.EVENT_READ)
            else:
                answer = key.fileobj.recv(4096)
                if not answer.startswith(b"HTTP/1.1 101"):
                    sys.exit(f"a client was answered {answer[:40]}")
                poller.unregister(key.fileobj)
                times.append(time.monotonic() - begun)
    return clients, times


def storm(arguments, flags):
    """Clients that come while the process does not accept."""
    with Server(arguments, ["--workers", "1", "--connections-max", "8000", *flags]) as server:
        os.kill(server.process.pid, signal.SIGSTOP)

        def go_on():
            time.sleep(0.3)
            os.kill(server.process.pid, signal.SIGCONT)

        _, times = connect_all(4000, go_on)
    late = sum(time > 0.9 for time in times)
    return {"last of 4,000 clients, s": max(times), "clients that waited over 0.9 s": late}


def near_end():
    """The server's end of the way to who is far."""
    return round_trip.make_tun(round_trip.SERVER, round_trip.CLIENT)


@contextlib.contextmanager
def far(tun, work, loss_percent=0):
    """Has `work` done a round trip away, by a process that stays until the end of the `with`.

    Gives a function that waits for its next line: one when it says that it is ready, if it does,
    and one with what it returned."""
    (told, tell), (kept, keep) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(keep)
        other = round_trip.enter_namespace(round_trip.CLIENT, round_trip.SERVER)
        carrier = os.fork()
        if carrier == 0:
            round_trip.carry(tun, other, ROUND_TRIP_MS / 2000, loss_percent)
        try:
            os.write(tell, json.dumps(work(lambda: os.write(tell, b"\n"))).encode() + b"\n")
            os.read(kept, 1)
        except SystemExit as end:
            print(end, file=sys.stderr)
        finally:
            os.kill(carrier, signal.SIGKILL)
            os._exit(0)
    os.close(tell)
    with open(told, encoding="ascii") as lines:
        try:
            yield lines.readline
        finally:
            os.close(keep)
            os.waitpid(child, 0)


def far_storm(arguments, flags):
    """Clients that come at once from a round trip away, during which each is half open."""
    flags = ["--workers", "1", "--connections-max", "8000", *flags]
    tun = near_end()
    with Server(arguments, flags, host=round_trip.SERVER):

        def come(_):
            return connect_all(3000, host=round_trip.SERVER, seconds=10)[1]

        with far(tun, come) as answer:
            times = json.loads(answer())
    soon = sum(time < 0.9 for time in times)
    return {"of 3,000 clients in 0.9 s": soon, "of 3,000 clients in 10 s": len(times)}


MESSAGES, MESSAGE_BYTES, READERS = 16, 65000, 4


def far_readers(arguments, flags, loss_percent=0):
    """1 MB for each of four who read at once, a round trip away."""
    flags = ["--workers", "1", "--write-timeout", "120s", *flags]
    flags += ["--send-queue-bytes-max", "4MiB"]
    tun = near_end()
    with Server(arguments, flags, host=round_trip.SERVER):

        def read(ready):
            clients, _ = connect_all(READERS, host=round_trip.SERVER)
            poller = selectors.DefaultSelector()
            left, times = {}, []
            for client in clients:
                left[client] = MESSAGES * MESSAGE_BYTES
                poller.register(client, selectors.EVENT_READ)
            ready()
            begun = time.monotonic()
            while left:
                for key, _ in poller.select(timeout=60) or sys.exit("nothing comes"):
                    left[key.fileobj] -= len(key.fileobj.recv(1 << 20)) or sys.exit("closed")
                    if left[key.fileobj] <= 0:
                        poller.unregister(key.fileobj)
                        del left[key.fileobj]
                        times.append(time.monotonic() - begun)
            return times

        with far(tun, read, loss_percent) as answer:
            answer()
            for _ in range(MESSAGES):
                publish(b"x" * MESSAGE_BYTES)
            held = []
            for _ in range(5):
                time.sleep(0.1)
                held.append(sockets("sport")[0] / READERS)
            times = json.loads(answer())
    return {"last of 4 to have 1 MB, s": max(times), "kernel bytes each, at most": max(held)}


def lossy_readers(arguments, flags):
    """The same, with one packet in a hundred lost."""
    return far_readers(arguments, flags, 1)


def sockets(which):
    """Bytes that the kernel holds for the sockets of one side, and how many sockets."""
    command = ["ss", "-tmnH", "state", "established", which, "=", f":{PORT}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f(\d+),w(\d+)", text)
    return sum(int(r) + int(t) + int(f) + int(w) for r, t, f, w in found), len(found)


def stalled(arguments, flags, count=500):
    """Subscribers that never read, while more is published than any buffer takes."""
    flags = ["--workers", "1", "--write-timeout", "60s", "--slow-consumer", "drop-oldest", *flags]
    with Server(arguments, flags):
        clients, _ = connect_all(count)
        for _ in range(600):
            publish(b"x" * 16384)
        held, count = sockets("sport")
        of_clients, _ = sockets("dport")
    del clients
    return {
        "kernel bytes held for a stalled reader": held / count,
        "bytes in the reader's own socket": of_clients / count,
    }


def few_stalled(arguments, flags):
    """The same of fewer, who may hold megabytes."""
    return stalled(arguments, flags, count=100)


def unread(arguments, flags):
    """A frame that nobody has read yet."""

    def pages():
        with open("/proc/net/sockstat", encoding="ascii") as stat:
            return int(re.search(r"TCP:.* mem (\d+)", stat.read())[1])

    with Server(arguments, ["--workers", "1", *flags]):
        clients, _ = connect_all(10000)
        before = pages()
        publish(b"x" * 100)
        time.sleep(1)
        after = pages()
    return {"pages of tcp_mem for each who has not read it": (after - before) / len(clients)}


def load(arguments, server, scenario, *flags):
    """The report of ringway-bench."""
    with tempfile.NamedTemporaryFile() as file:
        command = [f"{arguments.bin}/ringway-bench", "load", "--scenario", scenario]
        command += ["--url", f"ws://127.0.0.1:{PORT}/ws/room", "--pid", str(server.process.pid)]
        command += ["--json", file.name, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        return json.load(file)


def fan_out(arguments, flags, connections=5000, workers=1, duration="4s"):
    """One message to all, the load on another core."""
    flags = ["--workers", str(workers), "--cores", "0", *flags]
    with Server(arguments, flags) as server:
        count = ["--connections", str(connections), "--duration", duration]
        report = load(arguments, server, "fanout", "--core", "1", *count)
    return {
        "CPU per delivery, us": report["traffic"]["server_us_per_delivery"],
        "deliveries a second": report["traffic"]["delivered_per_second"],
    }


def wandering(arguments, flags):
    """One message to all from workers that may run on each core; the load keeps to the last."""
    last = max(os.sched_getaffinity(0))
    with Server(arguments, flags) as server:
        count = ["--connections", "5000", "--duration", "4s", "--core", str(last)]
        report = load(arguments, server, "fanout", *count)
    return {
        "CPU per delivery, us": report["traffic"]["server_us_per_delivery"],
        "deliveries a second": report["traffic"]["delivered_per_second"],
        "a delivery's 99th percentile, ms": report["latency"]["delivery"]["p99"] / 1e6,
    }


def crowd(arguments, flags):
    """One message to 20,000: 40,000 sockets, of which each packet has to find one."""
    return fan_out(arguments, flags, connections=20000, workers=2, duration="6s")


def large_crowd(arguments, flags):
    """The same with 100,000: six workers, since RLIMIT_NOFILE bounds what each of them holds."""
    flags = ["--ping-interval", "0", *flags]
    return fan_out(arguments, flags, connections=100000, workers=6, duration="8s")


def grouped(arguments, flags):
    """15,000 idle connections, in a control group that counts memory or in the root's."""
    group = None
    if "--group" in flags:
        group = f"/sys/fs/cgroup/memory/ringway-measure-{os.getpid()}"
        os.mkdir(group)
    try:
        with Server(arguments, ["--workers", "1", "--connections-max", "19000"], group) as server:

            def charged():
                with open(f"{group}/memory.kmem.usage_in_bytes", encoding="ascii") as usage:
                    return int(usage.read())

            before = charged() if group else 0
            clients, _ = connect_all(4000)
            figures = {}
            if group:
                figures["kernel bytes charged a connection"] = (charged() - before) / len(clients)
            for client in clients:
                client.close()
            report = load(arguments, server, "open", "--connections", "12000", "--core", "1")
        figures["CPU per handshake, us"] = report["connecting"]["server_us_per_handshake"]
        return figures
    finally:
        if group:
            os.rmdir(group)


WMEM = "4096 16384 4194304"
PORTS = {"net.ipv4.ip_local_port_range": "1024 65535"}


def both(key, one, other):
    """The two sides of a setting."""
    return [({key: one}, []), ({key: other}, [])]


# By name: the run, and its sides, each the settings and the flags of `serve`.
KNOBS = {
    "somaxconn": (storm, both("net.core.somaxconn", 128, 4096)),
    "syncookies": (storm, both("net.ipv4.tcp_syncookies", 0, 1)),
    "ehash": (crowd, both("net.ipv4.tcp_child_ehash_entries", 4096, 65536)),
    # 19,000 connections come from one address: with more ports to choose from they find one soon.
    "ehash-100k": (
        large_crowd,
        [({**PORTS, "net.ipv4.tcp_child_ehash_entries": size}, []) for size in (32768, 262144)],
    ),
    "tcp-mem": (unread, [({}, [])]),
    "syn-backlog": (
        far_storm,
        [
            ({"net.ipv4.tcp_syncookies": 0, "net.ipv4.tcp_max_syn_backlog": size}, [])
            for size in (128, 4096)
        ],
    ),
    "notsent-lowat": (stalled, both("net.ipv4.tcp_notsent_lowat", 4294967295, 16384)),
    "unsent": (
        few_stalled,
        [({}, [f"unsent_bytes_max = {size}"]) for size in (4294967295, 16384)],
    ),
    "wmem": (stalled, both("net.ipv4.tcp_wmem", WMEM, "4096 16384 65536")),
    "wmem-far": (far_readers, both("net.ipv4.tcp_wmem", WMEM, "4096 16384 65536")),
    "send-buffer-far": (far_readers, [({}, []), ({}, ["--socket-send-buffer-bytes", "32KiB"])]),
    "congestion-far": (far_readers, both("net.ipv4.tcp_congestion_control", "bbr", "reno")),
    "congestion-lossy": (lossy_readers, both("net.ipv4.tcp_congestion_control", "bbr", "reno")),
    "send-buffer": (stalled, [({}, []), ({}, ["--socket-send-buffer-bytes", "4KiB"])]),
    "send-buffer-cpu": (fan_out, [({}, []), ({}, ["--socket-send-buffer-bytes", "4KiB"])]),
    "pin": (wandering, [({}, ["--workers", "1", "--pin", pin]) for pin in ("off", "on")]),
    "pin-each-core": (wandering, [({}, ["--pin", pin]) for pin in ("off", "on")]),
    "congestion": (fan_out, both("net.ipv4.tcp_congestion_control", "bbr", "reno")),
    "group": (grouped, [({}, []), ({}, ["--group"])]),
}


def name_of(side):
    """A side in words."""
    settings, flags = side
    return " ".join([f"{key}={value}" for key, value in settings.items()] + flags) or "as it is"


def run_once(arguments, number):
    """In namespaces of its own: one inside the other, since some settings are the inner one's."""
    settings = KNOBS[arguments.knob][1][number][0]
    outer = [f"{key}={value}" for key, value in settings.items() if "child" in key]
    again = [sys.executable, os.path.abspath(__file__), arguments.knob, "--side", str(number)]
    again += ["--bin", arguments.bin]
    script = 'for s in $0; do sysctl -qw "$s"; done; exec unshare -n "$@"'
    command = ["unshare", "-n", "sh", "-c", script, " ".join(outer), *again]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def run_side(arguments):
    """What a run in its namespace does."""
    run, sides = KNOBS[arguments.knob]
    settings, flags = sides[arguments.side]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    inner = [f"{key}={value}" for key, value in settings.items() if "child" not in key]
    if inner:
        subprocess.run(["sysctl", "-qw", *inner], check=True)
    print(json.dumps(run(arguments, flags)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("knob", choices=KNOBS)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--bin", default="target/bench-fast")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        return run_side(arguments)
    for tool in ("unshare", "ip", "ss", "sysctl"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is needed")
    print("load average", *os.getloadavg())
    sides = KNOBS[arguments.knob][1]
    seen = [{} for _ in sides]
    for _ in range(arguments.pairs):
        for number, figures in enumerate(seen):
            for figure, value in run_once(arguments, number).items():
                figures.setdefault(figure, []).append(value)
    for figure in dict.fromkeys(figure for figures in seen for figure in figures):
        print(figure)
        ranges = []
        for side, figures in zip(sides, seen):
            values = figures.get(figure)
            if values:
                ranges.append((min(values), max(values)))
                print(
                    f"    {statistics.median(values):12.6g} ({min(values):.6g} - "
                    f"{max(values):.6g})  {name_of(side)}"
                )
        if len(ranges) == 2 and ranges[0][0] <= ranges[1][1] and ranges[1][0] <= ranges[0][1]:
            print("    overlap: no effect seen")


if __name__ == "__main__":
    main()
