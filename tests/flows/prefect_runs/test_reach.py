"""What goes to a Prefect server with the question whether it is well."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.prefect_runs import reach


def test_a_key_goes_to_the_server_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    port = server.server_port
    for configured in (f"http://127.0.0.2:{port}/api/", "http://another:4200/api"):
        monkeypatch.setenv("PREFECT_API_URL", configured)
        assert reach.answers(f"http://127.0.0.2:{port}/api")
    server.shutdown()
    server.server_close()
    assert heard == ["Bearer secret", None]
