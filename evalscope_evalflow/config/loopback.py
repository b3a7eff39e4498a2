"""This machine's own addresses: no proxy is asked for them, whatever the variables say."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine: by a name or an address of it, in IPv4 or IPv6."""
    with contextlib.suppress(ValueError):
        host = (urlsplit(url).hostname or "").rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return mapped.is_loopback or mapped.is_unspecified  # 0.0.0.0: what listens at every address
    return False


def no_proxy_variables(environ: Mapping[str, str], urls: Iterable[str | None] = ()) -> dict[str, str]:
    """`no_proxy` and `NO_PROXY` as they are in an environment, with this machine's addresses.

    Both are the same afterwards: programs differ in which of the two they read first.

    Args:
        environ: of the process that is started with them.
        urls: that will be asked; those that lead to this machine by another address, such as 127.0.1.1, are named too.
    """
    said = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip() for name in said.split(",") if name.strip()]
    if "*" in names:  # nobody is asked through a proxy; in a list, some programs do not know the star
        return {"no_proxy": "*", "NO_PROXY": "*"}
    for url in urls:
        if url and is_loopback(url):
            names.append(urlsplit(url).hostname or "")
    whole = ",".join(dict.fromkeys([*names, *_NAMES]))
    return {"no_proxy": whole, "NO_PROXY": whole}
