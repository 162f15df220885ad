"""The proxy that the environment names: read as curl reads it, refused by name where it cannot be used."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import quote, unquote, urlsplit

from evolvedirector.errors import UserError

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_ALLOWED = "Allowed are http, https, socks4, socks4a, socks5 and socks5h, a host and a port"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as the environment names it. Its text names it without user name and password."""

    scheme: str
    host: str
    """Without brackets."""
    port: int
    variable: str
    """Environment variable that names it, or `the system's settings`."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        """Say whether it speaks SOCKS, and not HTTP."""
        return self.scheme.startswith("socks")

    @property
    def looks_names_up(self) -> bool:
        """Say whether host names are sent to it as they are: `socks5h` and `socks4a`, as curl has it, and HTTP."""
        return self.scheme not in ("socks4", "socks5")

    @property
    def url(self) -> str:
        """Its whole address, with user name and password in percent escapes: for libraries, never for people."""
        who = "" if self.user is None else quote(self.user, safe="")
        if self.password is not None:
            who += ":" + quote(self.password, safe="")
        return f"{self.scheme}://{who + '@' if who else ''}{self._where}"

    @property
    def _where(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """Name it for people."""
        return f"the proxy {self.scheme}://{self._where} ({self.variable})"


def proxy_for(url: str) -> Proxy | None:
    """Find the proxy that the environment names for an address; None where it names none.

    As curl has it: `https_proxy` and `http_proxy` by the scheme of the address, else `all_proxy`; lower case before
    upper case; no scheme means http; `no_proxy` lists hosts that are reached without.

    Args:
        url: whole address.

    Raises:
        UserError: it cannot be used; the message never quotes it, since it may hold a password.
    """
    parts = urlsplit(url)
    named = urllib.request.getproxies()
    key = next((key for key in (parts.scheme, "all") if named.get(key)), None)
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 443)
    if key is None or is_exempt(host, port, named.get("no", "").split(",")) or _system_exempts(host):
        return None
    return read_proxy(named[key], _variable(key))


def proxy_environment() -> dict[str, str]:
    """Return the variables that lead a program which reads `https_proxy` and `http_proxy` alone through `all_proxy`.

    Raises:
        UserError: a proxy that cannot be used.
    """
    named = urllib.request.getproxies()
    found: dict[str, str] = {}
    for scheme in ("https", "http"):
        key = scheme if named.get(scheme) else "all"
        if named.get(key):
            address = read_proxy(named[key], _variable(key), needs_library=False).url
            found |= {f"{scheme}_proxy": address, f"{scheme.upper()}_PROXY": address}
    return found


def read_proxy(address: str, variable: str, needs_library: bool = True) -> Proxy:
    """Read the address of a proxy.

    Args:
        address: `host:port`, or with a scheme, user name and password (percent escapes are undone).
        variable: where it stands, for messages.
        needs_library: refuse SOCKS where the library that speaks it is not installed.

    Raises:
        UserError: it cannot be used.
    """
    address = address.strip()
    scheme, divided, rest = address.partition("://")
    scheme, rest = (scheme.lower(), rest) if divided else ("http", address)
    if scheme not in _DEFAULT_PORTS:
        known = scheme if re.fullmatch(r"[a-z][a-z0-9+.-]{0,15}", scheme) else "another"
        raise UserError(
            f"{variable} names a proxy with the scheme {known!r}. {_ALLOWED}. Write http://HOST:PORT, or "
            "socks5h://HOST:PORT for a SOCKS proxy."
        )
    try:
        parts = urlsplit(f"//{rest.removeprefix('//')}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UserError(_unreadable(variable)) from None
    odd = parts.path.strip("/") or parts.query or parts.fragment or any(ord(sign) <= 32 for sign in address)
    if odd or not _HOST.fullmatch(host) or (":" in host and "[" not in parts.netloc) or port == 0:
        raise UserError(_unreadable(variable))
    user, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    if user is not None and ":" in user and scheme in ("http", "https"):
        raise UserError(_unreadable(variable))  # Basic authentication ends the name at the first colon
    if needs_library and scheme.startswith("socks") and find_spec("aiohttp_socks") is None:
        raise UserError(
            f"{variable} names a {scheme} proxy, for which aiohttp-socks is not installed. Allowed without it are http "
            "and https proxies. Run `pip install 'evolvedirector[socks]'`, or unset the variable."
        )
    return Proxy(scheme, host, port or _DEFAULT_PORTS[scheme], variable, user or None, password if user else None)


def is_exempt(host: str, port: int, entries: Iterable[str]) -> bool:
    """Say whether `no_proxy` lists a host: `*`, a name with all below it, a name and port, an address or a network.

    Args:
        host: name or address without brackets.
        port: of the address.
        entries: parts of `no_proxy`.
    """
    host = host.lower().rstrip(".")
    for text in entries:
        entry = text.strip().lower()
        if entry == "*":
            return True
        name, bracketed, after = entry.partition("]") if entry.startswith("[") else (entry, "", "")
        if bracketed:
            name, tail = name[1:], after.removeprefix(":")
        else:
            name, _, tail = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        if tail and tail != str(port):
            continue
        name = name.removeprefix("*").strip(".")
        if name and (host == name or host.endswith(f".{name}") or _in_network(host, name)):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _system_exempts(host: str) -> bool:
    """Ask the settings of macOS and Windows, which hold exceptions of their own."""
    return not urllib.request.getproxies_environment() and bool(urllib.request.proxy_bypass(host))


def _variable(key: str) -> str:
    names = (f"{key}_proxy", f"{key.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def _unreadable(variable: str) -> str:
    return (
        f"{variable} names no proxy that can be read. {_ALLOWED}; signs such as @ : / # in a user name or password are "
        "percent escapes. Write http://HOST:PORT, say, or unset the variable."
    )
