"""A proxy like the one in front of a Space: TLS ends here, and the bytes go on to a plain server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import tempfile
import threading


class TlsProxy:
    """Serve `https://<host_name>` on a port of 127.0.0.1 from a plain server on another, for the `with` block.

    The bytes are not changed, so the server sees the Host and Origin of the browser, and no `X-Forwarded-Proto`.
    `chromium_argument` makes Chromium find `url` here.
    """

    def __init__(self, plain_port: int, host_name: str = "me-hooks.hf.space") -> None:
        self.plain_port = plain_port
        self.url = f"https://{host_name}"
        self._context = _context(host_name)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.chromium_argument = f"--host-resolver-rules=MAP {host_name}:443 127.0.0.1:{self.port}"
        self._serving = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)

    def __enter__(self) -> TlsProxy:
        self._thread.start()
        self._serving.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._forward, sock=self._socket, ssl=self._context)
        self._serving.set()
        await self._stop.wait()
        server.close()

    async def _forward(self, browser: asyncio.StreamReader, to_browser: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self.plain_port)
        await asyncio.gather(_pump(browser, to_server), _pump(server, to_browser))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()


def _context(host_name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
        subprocess.run(
            [*command, f"/CN={host_name}", "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
        context.load_cert_chain(certificate, key)
    return context
