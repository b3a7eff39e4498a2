"""Where a redirect may lead: never further in than the server that sends it.

A server on the Internet must not have us ask what it cannot reach itself: this machine's own services, the addresses
where clouds hand out credentials, a private network. In `events`, as the parent and the worker ask alike.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum
from urllib.parse import urlsplit


class Reach(IntEnum):
    """From where an address can be reached; less is further in."""

    MACHINE = 0
    LINK = 1
    PRIVATE = 2
    WORLD = 3


def refused_redirect(before: str, after: str) -> str:
    """Why a redirect is not followed; empty: it is.

    Args:
        before: the URL that was asked.
        after: the whole URL that it redirects to.
    """
    old, new = urlsplit(before), urlsplit(after)
    if new.scheme not in ("http", "https"):
        return f"it redirects to {new.scheme}:, which is no web address"
    if old.hostname == new.hostname or not new.hostname:
        return ""
    if reach_of(new.hostname) < reach_of(old.hostname or ""):
        return f"it redirects to {new.hostname}, which it could not reach itself: that is further in than it is"
    return ""


def reach_of(host: str) -> Reach:
    """From where a host can be reached; of several addresses, the one that is furthest in counts.

    A name that cannot be resolved here, as where only a proxy can, counts as of the world.
    """
    try:
        found = [ipaddress.ip_address(host.partition("%")[0])]
    except ValueError:
        found = _resolved(host)
    return min(map(_reach, found), default=Reach.WORLD)


def _resolved(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        listed = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in listed]
    except (OSError, ValueError):  # no such name; a name that is none
        return []


def _reach(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Reach:
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_unspecified:
        return Reach.MACHINE
    if address.is_link_local:
        return Reach.LINK
    return Reach.WORLD if address.is_global else Reach.PRIVATE
