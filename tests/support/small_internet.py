"""A host that answers: ``python small_internet.py NAME ADDRESS...``, inside a network namespace.

On port 8080 of every address it has, it serves its name over HTTP and to any datagram, broadcasts included. On port 53
of those that are named it answers every DNS question for an address with 198.51.100.77. A datagram must come from where
it was sent to, so each named address has sockets of its own. Says "ready" when all listen.
"""

from __future__ import annotations

import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Http(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args: object) -> None:
        return


class _Datagrams(socketserver.ThreadingUDPServer):
    allow_reuse_address = True
    """All addresses, and one of them: Linux takes the closest."""


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(sys.argv[1].encode(), self.client_address)


class _Dns(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, socket = self.request
        end = query.index(b"\0", 12) + 5
        is_address = query[end - 4 : end - 2] == b"\0\x01"
        answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + bytes((198, 51, 100, 77)) if is_address else b""
        counts = b"\0\x01" + (b"\0\x01" if is_address else b"\0\0") + b"\0\0\0\0"
        socket.sendto(query[:2] + b"\x81\x80" + counts + query[12:end] + answer, self.client_address)


def main() -> None:
    servers = [
        ThreadingHTTPServer(("0.0.0.0", 8080), _Http),
        *(_Datagrams((address, 8080), _Echo) for address in ("0.0.0.0", *sys.argv[2:])),
        *(socketserver.ThreadingUDPServer((address, 53), _Dns) for address in sys.argv[2:]),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
