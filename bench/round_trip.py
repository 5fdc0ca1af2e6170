"""Who is reset when a gateway closes its listeners while a TCP handshake takes a round trip.

    python3 bench/round_trip.py target/bench-fast/ringway --migrate 0 --round-trip-ms 100

Two network namespaces are joined by a pair of tun devices that hold every packet back for half a
round trip; nothing outside is touched, and all of it is gone when this ends. In one of them two
gateways share an address, in the other clients connect at a steady rate. After a while the first
gateway gets SIGTERM. What became of each attempt is printed; exit code 1 when one was reset.
Needs root, /dev/net/tun and iproute2. Not a check of ringway-bench, because a tun device is made by
an ioctl with a structure, which needs unsafe code there.
"""

import argparse
import ctypes
import collections
import fcntl
import heapq
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

SERVER, CLIENT, PORT = "10.9.0.1", "10.9.0.2", 9000
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001
REQUEST = (
    f"GET /ws/room HTTP/1.1\r\nHost: {SERVER}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


def enter_namespace(own, other):
    """A namespace of this process's own, and its tun device."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
    return make_tun(own, other)


def make_tun(own, other):
    """A tun device of the namespace that this process is in. Its queue takes a storm."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"t0", IFF_TUN_NO_PI))
    address = f"addr add {own} peer {other} dev t0"
    for command in ("link set lo up", address, "link set t0 txqueuelen 20000 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def carry(one, other, delay, loss_percent=0):
    """Carries packets between two devices, each after the delay; some are lost, always the same."""
    waiting, count, chance = [], 0, random.Random(1)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, tun, packet = heapq.heappop(waiting)
            os.write(tun, packet)
        patience = max(0, waiting[0][0] - now) if waiting else 0.1
        for tun in select.select([one, other], [], [], patience)[0]:
            packet, count = os.read(tun, 65536), count + 1
            if chance.random() < loss_percent / 100:
                continue
            target = other if tun == one else one
            heapq.heappush(waiting, (time.monotonic() + delay, count, target, packet))


def attempt(seen, lock):
    """One client: what it saw, and how long that took."""
    started = time.monotonic()
    try:
        with socket.create_connection((SERVER, PORT), timeout=10) as client:
            client.sendall(REQUEST)
            answer = client.recv(12)
        result = answer[9:].decode() or "reset"
    except ConnectionRefusedError:
        result = "refused"
    except ConnectionResetError:
        result = "reset"
    except OSError as error:
        result = type(error).__name__
    with lock:
        seen.append((result, time.monotonic() - started))


def crowd(options, server_tun, told):
    """The clients' side, in a process of its own that begins when told. Returns its exit code."""
    tun = enter_namespace(CLIENT, SERVER)
    delay = options.round_trip_ms / 2000
    threading.Thread(target=carry, args=(server_tun, tun, delay), daemon=True).start()
    os.read(told, 1)
    seen, lock, clients = [], threading.Lock(), []
    for _ in range(options.clients):
        clients.append(threading.Thread(target=attempt, args=(seen, lock)))
        clients[-1].start()
        time.sleep(1 / options.rate)
    for client in clients:
        client.join()
    results = collections.Counter(result for result, _ in seen)
    late = sum(seconds > 0.9 for _, seconds in seen)
    print(f"migrate {options.migrate}, round trip {options.round_trip_ms} ms: {dict(results)}, "
          f"{late} took longer than 0.9 s", flush=True)
    return 0 if set(results) <= {"101", "503"} else 1


def start(binary, admin):
    """A gateway, once it listens."""
    command = [binary, "serve", "--workers", "1", "--pin", "off", "--drain", "3s",
               "--listen", f"{SERVER}:{PORT}", "--admin", f"127.0.0.1:{admin}"]
    gateway = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in gateway.stderr:
        if "plane=admin" in line:
            threading.Thread(target=gateway.stderr.read, daemon=True).start()
            return gateway
    sys.exit("the gateway did not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--migrate", type=int, choices=(0, 1), default=0)
    parser.add_argument("--round-trip-ms", type=float, default=100)
    parser.add_argument("--clients", type=int, default=600)
    parser.add_argument("--rate", type=float, default=200, help="clients a second")
    options = parser.parse_args()
    tun = enter_namespace(SERVER, CLIENT)
    with open("/proc/sys/net/ipv4/tcp_migrate_req", "w", encoding="ascii") as setting:
        setting.write(str(options.migrate))
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(crowd(options, tun, told))
    gateways = []
    try:
        gateways = [start(options.binary, admin) for admin in (9001, 9002)]
        os.write(tell, b"g")
        time.sleep(1)
        gateways[0].send_signal(signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    finally:
        for gateway in gateways:
            gateway.kill()
            gateway.wait()
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
