"""A web server for tests that cuts, refuses, redirects and lies as mirrors do."""

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Page:
    """What is served under a path.

    Args:
        content: the file.
        status: instead of 200 or 206.
        ranges: whether it can send a part.
        cuts: how many bytes each answer sends before the connection breaks, in order; answers
            after these are whole.
        etag: of the file.
        kind: the content type.
        location: sends the client elsewhere.
        hold: the answer waits for it, after the first half.
        endless: the content is sent again and again, without a length.
        drip: seconds after each byte.
        reason: of the status.
    """

    content: bytes = b""
    status: int = 200
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    etag: str | None = '"1"'
    kind: str = "application/zip"
    location: str | None = None
    hold: threading.Event | None = None
    endless: bool = False
    drip: float = 0.0
    reason: str | None = None


@dataclass
class Site:
    """A running server: its pages by path, and the requests it has seen."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range header)
    asked: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"{self.address}{path}"


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[Site]:
    """A server on a free port of this machine; with a certificate over TLS."""
    scheme = "http" if certificate is None else "https"
    site = Site("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.append((self.path, self.headers.get("Range")))
            site.asked.set()
            _answer(self, site.pages.get(self.path, Page(status=404)))

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.address = f"{scheme}://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(request: BaseHTTPRequestHandler, page: Page) -> None:
    wanted = request.headers.get("Range")
    condition = request.headers.get("If-Range")
    start = 0
    if wanted and page.ranges and page.status == 200 and condition in (None, page.etag):
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
    if start >= len(page.content) > 0:
        request.send_error(416)
        return
    body = page.content[start:]
    request.send_response(206 if start else page.status, page.reason)
    if start:
        size = len(page.content)
        request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    if page.location:
        request.send_header("Location", page.location)
    if page.etag:
        request.send_header("ETag", page.etag)
    request.send_header("Content-Type", page.kind)
    if not page.endless:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    while page.endless:  # until the client hangs up
        request.wfile.write(body)
    for byte in body if page.drip else b"":
        request.wfile.write(bytes([byte]))
        time.sleep(page.drip)
    if page.cuts:
        request.wfile.write(body[: page.cuts.pop(0)])
        return  # HTTP/1.0: the connection closes here
    half = len(body) // 2
    request.wfile.write(body[:half])
    if page.hold is not None:
        page.hold.wait(60)
    request.wfile.write(body[half:])


def make_certificate(folder: Path, *, expired: bool = False) -> Path:
    """A self-signed certificate for localhost and its key, in one PEM file."""
    config, key, certificate = folder / "ca.cnf", folder / "key.pem", folder / "certificate.pem"
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01\n")
    config.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=any\n"
        "[any]\ncommonName=supplied\n[req]\ndistinguished_name=name\n[name]\n"
        "[local]\nsubjectAltName=DNS:localhost\nbasicConstraints=critical,CA:TRUE\n"
    )
    request = folder / "request.pem"
    dates = ("20200101000000Z", "20210101000000Z" if expired else "20900101000000Z")
    for command in (
        "req -new -newkey rsa:2048 -nodes -subj /CN=localhost "
        f"-config {config} -keyout {key} -out {request}",
        f"ca -batch -selfsign -config {config} -keyfile {key} -in {request} -out {certificate} "
        f"-notext -extensions local -startdate {dates[0]} -enddate {dates[1]}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + key.read_text())
    return certificate
