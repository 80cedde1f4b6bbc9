"""A door before a real server, which can be made to fail: shut, hanging, answering 401 or 500."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Mood = Literal["well", "shut", "hangs", "slow", "500", "401"]
SLOW_S = 0.05  # an answer; a campaign asks a hundred times
HANG_S = 15.0  # longer than anybody here waits


class Door:
    """Listens on 127.0.0.1:port and passes on to `behind`, as its mood allows."""

    def __init__(self, behind: int) -> None:
        self.mood: Mood = "well"
        self.num_passed = 0
        self.fails_after: int | None = None  # requests, then the mood turns to 500
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                if door.mood == "shut":
                    self.close_connection = True
                    return
                super().handle_one_request()

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if door.mood == "slow":
                    time.sleep(SLOW_S)
                if door.mood == "hangs":
                    time.sleep(HANG_S)
                if door.mood in ("500", "401"):
                    self.answer(int(door.mood), [], b'{"error_code": "INTERNAL_ERROR"}')
                    return
                link = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                    link.request(self.command, self.path, body, headers)
                    said = link.getresponse()
                    content = said.read()
                    door.num_passed += 1
                    if door.num_passed == door.fails_after:
                        door.mood = "500"  # done behind the door, but nobody hears of it
                        self.answer(500, [], b"{}")
                        return
                    self.answer(said.status, said.getheaders(), content)
                except OSError:
                    self.answer(502, [], b"nobody behind the door")
                finally:
                    link.close()

            def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = pass_on

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
