"""nginx and HAProxy in front of the gateway, on ports of their own. Their configuration is what an
operator would write, and no more."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

from gateway import PATIENCE

NGINX = """
daemon off;
user root;
pid {directory}/nginx.pid;
error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address} reuseport;
        location / {{
            proxy_pass http://{gateway};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout {idle}s;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    timeout tunnel {idle}s
listen ringway
    bind {address}
    server gateway {gateway}
"""


class Proxy:
    """A running proxy. It ends with its `async with`."""

    def __init__(self, name: str, gateway: str, idle_seconds: int) -> None:
        """`name` is `nginx` or `haproxy`, `gateway` where it passes everything to. It cuts a
        connection after so many seconds without a byte."""
        self.name = name
        self.gateway = gateway
        self.idle_seconds = idle_seconds

    async def __aenter__(self) -> Proxy:
        # Neither says which port it got, so one is held for it: a bound socket that does not listen
        # gets no connections, and with SO_REUSEPORT, which both set, does not stand in the way.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        host, port = self._port.getsockname()
        self.address = f"{host}:{port}"
        self._directory = tempfile.TemporaryDirectory()
        file = Path(self._directory.name) / "configuration"
        text = {"nginx": NGINX, "haproxy": HAPROXY}[self.name].format(
            address=self.address,
            directory=self._directory.name,
            gateway=self.gateway,
            idle=self.idle_seconds,
        )
        file.write_text(text)
        command = {
            "nginx": ("nginx", "-e", "stderr", "-c", str(file)),
            "haproxy": ("haproxy", "-q", "-db", "-f", str(file)),
        }[self.name]
        self._process = await asyncio.create_subprocess_exec(*command)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._started(host, port)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _started(self, host: str, port: int) -> None:
        """Waits until it listens."""
        while self._process.returncode is None:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise RuntimeError(f"{self.name} did not start")

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        self._directory.cleanup()
        self._port.close()


async def version(name: str) -> str:
    """What the installed one says of itself."""
    process = await asyncio.create_subprocess_exec(
        *(name, "-v"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    words = output.decode().replace("/", " ").split()
    return next(word for word in words if word[0].isdigit())
