"""HTTP clients for vendors: time-outs, no proxy of the environment, silent logs.

httpx logs whole URLs at INFO, signatures included, and httpcore logs headers at DEBUG, keys
included: both are silenced for good, under any logging configuration.
"""

import logging
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

CONNECT_S = 10.0
READ_S = 120.0  # between two bytes of an answer; a gateway may hold a create until a slot is free
IDLE_S = 5.0  # an older idle connection may be dead, and a POST on it lost
_SILENCED = (
    "httpx",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)


class _Silence(logging.Filter):
    """Filter that drops every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


_SILENCE = _Silence()


def client(num_connections: int = 64, read_s: float = READ_S) -> httpx.AsyncClient:
    """Return a client for creates, polls and listings; use it as an async context manager.

    The client follows no redirect, keeps no cookies, and reads no proxy, certificate or .netrc
    setting of the environment: only params decide. (Behind a mandatory proxy, harvest elsewhere.)
    """
    silence()
    return httpx.AsyncClient(
        timeout=httpx.Timeout(read_s, connect=CONNECT_S, write=30.0, pool=read_s),
        limits=httpx.Limits(
            max_connections=num_connections,
            max_keepalive_connections=num_connections,
            keepalive_expiry=IDLE_S,
        ),
        headers={"Accept-Encoding": "identity", "User-Agent": "afd-harvest"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


def download_client(num_connections: int = 16, read_s: float = 30.0) -> httpx.AsyncClient:
    """Return a client for videos that uses no connection twice.

    A download connects to an address that was checked, under the name of its host
    (afd/harvest/download.py); a kept connection to that address might speak for another host.
    """
    silence()
    return httpx.AsyncClient(
        timeout=httpx.Timeout(read_s, connect=CONNECT_S, pool=600.0),
        limits=httpx.Limits(max_connections=num_connections, max_keepalive_connections=0),
        headers={"Accept-Encoding": "identity", "User-Agent": "afd-harvest"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


def silence() -> None:
    """Keep URLs and headers of vendors out of all logs."""
    for name in _SILENCED:
        logging.getLogger(name).addFilter(_SILENCE)  # adding it again changes nothing
