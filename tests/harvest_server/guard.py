"""No test of a vendor leaves this machine: neither a connection nor a lookup of a name."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_socket

HERE = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections elsewhere raise SocketConnectBlockedError, lookups of other names fail."""
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)  # what is put back
    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1"], allow_unix_socket=True)
    lookup = socket.getaddrinfo

    def local(host: Any, *arguments: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in HERE and not name[:1].isdigit() and ":" not in name:
            raise socket.gaierror(socket.EAI_NONAME, f"tests look up no other host: {name}")
        return lookup(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    yield
