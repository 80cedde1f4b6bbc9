"""Allowed targets of a download: URL, host, and the resolved addresses.

A vendor's URL (or a redirect) could point this machine at itself, at a cloud's metadata service or
into the cluster's network. A name is resolved once, each of its addresses is checked, and the
connection goes to a checked address: DNS rebinding has no effect.
"""

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

from afd.errors import InputError
from afd.teachers.vendors.sanitise import same_origin

LOOKUP_S = 10.0
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
Address = IPv4Address | IPv6Address


class UnsafeUrlError(InputError):
    """A URL that is not followed; the text names the rule and no URL."""


class LookupFailedError(Exception):
    """The host's name cannot be resolved now."""


@dataclass(frozen=True)
class Allowed:
    """Hosts that a teacher's videos may come from."""

    hosts: tuple[str, ...]  # "cdn.vendor.com", or "*.vendor.com" for all below it
    loopback: bool = False  # also http, and addresses of this very machine: a server of one's own
    own: str | None = None  # the API's URL as the user wrote it: that server may stand on a private
    # network and on any port, and only there


def check_url(url: httpx.URL, allowed: Allowed) -> None:
    """Require https, an allowed host, port 443 and no user. Errors: UnsafeUrlError."""
    host = _ascii(url)
    if url.userinfo:
        raise UnsafeUrlError("the video's URL carries a user name")
    if _is_own(url, allowed):
        return
    here = allowed.loopback and _names_this_machine(host)
    if url.scheme != "https" and not (here and url.scheme == "http"):
        raise UnsafeUrlError("the video's URL is not https")
    if not any(_matches(host, pattern) for pattern in allowed.hosts):
        raise UnsafeUrlError(
            f"videos may not come from the host {host[:100]}; if it is the vendor's, add it to "
            "access.video_hosts"
        )
    if url.port not in (None, 443) and not here:
        raise UnsafeUrlError(f"the video's URL names port {url.port}, only 443 is used")


async def resolve(url: httpx.URL, allowed: Allowed) -> list[str]:
    """Return the addresses of the host, all allowed, in the resolver's order.

    Errors: UnsafeUrlError for one that is not public, LookupFailedError.
    """
    host = _ascii(url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOKUP_S):
            found = await loop.getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a time-out is an OSError
        raise LookupFailedError("the host's name is not known") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    here = allowed.loopback and _names_this_machine(host)
    for address in addresses:
        if not fit(address, here=here) and not _is_own(url, allowed):
            raise UnsafeUrlError(
                f"the host {host[:100]} leads to a private, local or reserved address"
            )
    return addresses


def fit(address: str, *, here: bool = False) -> bool:
    """Return True if `address` is public, or is this machine if `here` is set."""
    try:
        parsed = _unwrapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if here:
        return parsed.is_loopback
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 one, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    inner = address.ipv4_mapped or address.sixtofour
    if inner is not None:
        return inner
    return address.teredo[1] if address.teredo else address


def _is_own(url: httpx.URL, allowed: Allowed) -> bool:
    return allowed.own is not None and same_origin(str(url), allowed.own)


def _ascii(url: httpx.URL) -> str:
    """Return the host in DNS form: lower case, IDNA, without a final dot."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _names_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
