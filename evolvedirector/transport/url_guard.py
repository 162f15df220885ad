"""Which addresses may be opened at all: result URLs come from outside and must not reach into private networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import SplitResult, urlsplit

from evolvedirector.errors import UserError
from evolvedirector.transport.fault import TransportFault

MAX_URL_CHARACTERS = 8192


def check_url(url: str, allowed_hosts: Sequence[str], loopback_host: str | None = None) -> SplitResult:
    """Refuse a URL that is not plainly https to an allowed host.

    Only a spelling that every parser reads alike passes: no backslash, no white space, no user name, no unusual port.

    Args:
        url: address from outside.
        allowed_hosts: exact names, or `*.example.com` for every name below example.com (itself not included).
        loopback_host: host of the service itself when it runs on this machine: it may hand out plain http addresses
            with any port; None for none.

    Returns:
        The parts of the address.

    Raises:
        TransportFault: `forbidden_url`; the message names host and reason, never path or query.
    """
    if not isinstance(url, str) or len(url) > MAX_URL_CHARACTERS:
        raise _forbidden("it is no text of reasonable length")
    _check_signs(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _forbidden("it cannot be parsed") from None
    if "@" in parts.netloc:
        raise _forbidden("it holds a user name")
    if not host or host.endswith(".") or "%" in parts.netloc:
        raise _forbidden("its host is spelt in an unusual way")
    if loopback_host is not None and host == loopback_host and parts.scheme in ("http", "https"):
        return parts
    if parts.scheme != "https":
        raise _forbidden(f"its scheme is {parts.scheme[:10]!r}, allowed is https")
    if port not in (None, 443):
        raise _forbidden(f"its port is {port}, allowed is 443")
    if not host_is_allowed(host, allowed_hosts):
        allowed = ", ".join(allowed_hosts) or "none"
        raise _forbidden(f"its host {host[:100]!r} is not among the allowed ones ({allowed})")
    return parts


def service_url(base_url: str, path_or_url: str, allowed_hosts: Sequence[str]) -> str:
    """Make a whole address of what a request names: a path of the service, or an address that it handed out.

    Args:
        base_url: address of the service.
        path_or_url: appended to it; a whole address must be of the same service, or https to an allowed host.
        allowed_hosts: further hosts that our key may be sent to.

    Raises:
        TransportFault: `forbidden_url`.
    """
    if "://" not in path_or_url:
        return f"{base_url.rstrip('/')}/{path_or_url.lstrip('/')}"
    _check_signs(path_or_url)
    try:
        parts, own = urlsplit(path_or_url), urlsplit(base_url)
    except ValueError:
        raise _forbidden("it cannot be parsed") from None
    if (parts.scheme, parts.netloc) != (own.scheme, own.netloc):
        check_url(path_or_url, [*allowed_hosts, own.hostname or ""])
    return path_or_url


def _check_signs(url: str) -> None:
    if "\\" in url or any(sign.isspace() or not sign.isprintable() or ord(sign) > 126 for sign in url):
        raise _forbidden("it holds a backslash, white space or signs outside of ASCII")


def host_is_allowed(host: str, allowed_hosts: Iterable[str]) -> bool:
    """Say whether a host name is listed, or lies below a listed `*.` name.

    Args:
        host: name in lower case.
        allowed_hosts: exact names and `*.` names.
    """
    for allowed in allowed_hosts:
        name = allowed.lower()
        if host == name or (name.startswith("*.") and host.endswith(name[1:]) and len(host) > len(name) - 1):
            return True
    return False


def check_allowed_hosts(allowed_hosts: Iterable[str]) -> None:
    """Refuse host patterns that allow more than meant.

    Raises:
        UserError: a pattern is no host name, or covers a whole top-level domain.
    """
    for name in allowed_hosts:
        bare = name.removeprefix("*.")
        if not bare or not all(sign.isalnum() or sign in "-." for sign in bare) or "." not in bare.strip("."):
            raise UserError(
                f"{name!r} is no host that images may be fetched from. Allowed are names such as cdn.example.com and "
                "*.example.com. Write the host alone, without scheme and path."
            )


def is_address(host: str) -> bool:
    """Say whether a host is an IP address and no name.

    Args:
        host: as it stands in an address, without brackets.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_address(address: str) -> None:
    """Refuse an IP address outside of the public internet.

    Args:
        address: what a host name was resolved to.

    Raises:
        TransportFault: `forbidden_url`.
    """
    if not is_public_address(address):
        raise _forbidden("its host lies in a private, local or reserved network")


def is_public_address(address: str) -> bool:
    """Say whether an IP address belongs to the public internet, the one inside of an IPv6 address included.

    Args:
        address: in text, a zone (`%eth0`) makes it local.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None or parsed.is_site_local or parsed.sixtofour or parsed.teredo:
            return False  # zones and tunnels lead into networks of others
        inner = parsed.ipv4_mapped or (ipaddress.IPv4Address(int(parsed) % 2**32) if parsed in _NAT64 else None)
        if inner is not None:
            return is_public_address(str(inner))
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _forbidden(why: str) -> TransportFault:
    return TransportFault("forbidden_url", f"a URL in the answer is not opened: {why}")
