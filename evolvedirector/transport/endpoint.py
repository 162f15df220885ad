"""Where a remote service is and how hard it may be asked."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_KEY_PREFIXES = ("sk_", "sk-", "hf_", "r8_", "fal_", "bfl_", "key_", "ghp_", "gsk_", "nvapi")
_LOCAL_SUFFIXES = (".local", ".internal", ".lan", ".localhost", ".home.arpa")


@dataclass(frozen=True)
class Endpoint:
    """Name a remote service, the environment variable that holds its key, and the limits for asking it.

    The key itself is never part of a config: it is read from the environment when a request is sent.

    Args:
        base_url: address that paths are appended to, such as `https://api.openai.com/v1`. Plain `http://` is allowed
            for this machine and private networks only.
        api_key_env: name of the environment variable that holds the key; None for a service without one.
        max_in_flight: requests at the same time, per part (teacher, judge, writer) and process.
        requests_per_minute: rate limit per process and key, held across rounds; None for none.
        timeout_s: seconds to wait for a connection, or for the next byte of an answer.
        deadline_s: seconds after which one piece of work (all tries, waits, polls and the download of one image) ends
            whatever happens.
        attempts: tries per request, the first included.
        idempotent: the service never does the same `Idempotency-Key` twice, so a request whose outcome is unknown
            (cut off, timed out or answered 408, 409, 500, 502, 504 or 520 to 527) may be sent again without
            being paid twice.

    Raises:
        ValueError: a field is out of range, or a key was written where a name belongs.
    """

    base_url: str
    api_key_env: str | None = None
    max_in_flight: int = 16
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    deadline_s: float = 600.0
    attempts: int = 6
    idempotent: bool = False

    def __post_init__(self) -> None:
        _check_base_url(self.base_url)
        if self.api_key_env is not None:
            _check_variable_name(self.api_key_env)
        if self.max_in_flight < 1:
            raise ValueError(
                f"max_in_flight={self.max_in_flight}. Allowed is 1 or more. Write 1 for one request at a time."
            )
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}. Allowed is 1 or more. Write 1 for no second try.")
        rate = self.requests_per_minute
        if rate is not None and not 0.0 < rate < math.inf:
            raise ValueError(f"requests_per_minute={rate}. Allowed is more than 0. Write null for no limit.")
        for name, seconds in (("timeout_s", self.timeout_s), ("deadline_s", self.deadline_s)):
            if not 0.0 < seconds < math.inf:
                raise ValueError(f"{name}={seconds}. Allowed are seconds over 0. Write 600 for ten minutes.")

    @property
    def host(self) -> str:
        """Name the host, in lower case, without port."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def requests_in_flight(self) -> int:
        """Say how many requests a round hands over at once: all slots stay busy, and a unit still ends soon enough."""
        return min(4 * self.max_in_flight, 256)

    @property
    def is_loopback(self) -> bool:
        """Say whether the service runs on this machine."""
        return is_loopback_host(self.host)


def is_loopback_host(host: str) -> bool:
    """Say whether a host name or address means this machine.

    Args:
        host: name or address in lower case; no name server is asked.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_private_host(host: str) -> bool:
    """Say whether a host is named like one of a private network: an address, a bare name, a local suffix.

    Args:
        host: name or address in lower case; no name server is asked.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_SUFFIXES)
    return address.is_private or address.is_loopback


def _check_base_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(
            "base_url is no address. Allowed is scheme, host, port and path. Write `https://api.openai.com/v1`, say."
        ) from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # Not quoted: what stands there may be a secret.
        raise ValueError(
            "base_url holds a user name, a password or a part after `?` or `#`. Allowed are scheme, host, port and "
            "path. Put the key into an environment variable and write its name as api_key_env."
        )
    if parts.scheme not in ("http", "https") or not host or "\\" in url or any(sign.isspace() for sign in url):
        raise ValueError(
            f"base_url={url!r} is no web address. Allowed are https, and http nearby. Write https://api.openai.com/v1."
        )
    if parts.scheme == "http" and not is_private_host(host):
        raise ValueError(
            f"base_url={url!r} would send the key and the prompts unencrypted. Plain http is allowed for this machine "
            f"and private networks only. Write https{url[4:]}."
        )


def _check_variable_name(name: str) -> None:
    """Refuse what is no name, or is a key by its looks. The text is never quoted: it may be the key."""
    if _VARIABLE.fullmatch(name) and not _looks_like_a_key(name):
        return
    raise ValueError(
        "api_key_env is not the name of an environment variable; it looks like a key itself. Allowed is a name of "
        "letters, digits and `_`. Write `export MY_API_KEY=...` in the shell and `api_key_env: MY_API_KEY` here, and "
        "replace the key if it was ever saved in a file."
    )


def _looks_like_a_key(name: str) -> bool:
    if name.startswith(_KEY_PREFIXES):
        return True
    digits = sum(sign.isdigit() for sign in name)
    return len(name) >= 20 and digits >= 4 and (name != name.upper() or digits >= 8)
