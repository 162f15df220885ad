"""What an image costs: a list that is shipped, a list of the user's own, both plain YAML."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.errors import UserError
from evolvedirector.store.paths import user_path

PRICES_VARIABLE = "EVOLVEDIRECTOR_PRICES"
"""Environment variable that names a user's own list."""
SHIPPED = Path(__file__).with_name("prices.yaml")
_MAX_BYTES = 2**20


def listed_price_usd(provider: str, model: str, quality: str | None = None) -> float | None:
    """Look up the price of one image in US dollars, the user's own list before the shipped one.

    A budget in money must hold, so a model that is listed by quality only costs its dearest one where no quality is
    named. Prices are those of about one megapixel.

    Args:
        provider: `bfl`, `fal`, `openai`, `replicate`, `stability`, or a word of the user's own list.
        model: name as the provider spells it.
        quality: as the provider spells it; None for a model without qualities, or one left to the provider.

    Returns:
        The price, or None for a model that neither list knows.

    Raises:
        ValueError: the user's own list cannot be read.
    """
    prices = price_list()
    name = f"{provider}/{model}"
    exact = prices.get(f"{name}/{quality}") if quality else None
    if exact is not None:
        return exact
    if name in prices:
        return prices[name]
    if quality and quality != "auto":
        return None
    known = {
        listed.removeprefix(f"{name}/"): price for listed, price in prices.items() if listed.startswith(f"{name}/")
    }
    return max((price for quality, price in known.items() if "/" not in quality), default=None)


def price_list() -> dict[str, float]:
    """Read both lists: US dollars per image by `provider/model` or `provider/model/quality`.

    Raises:
        ValueError: the user's own list cannot be read.
    """
    own = os.environ.get(PRICES_VARIABLE, "")
    return {**_read(SHIPPED, 0), **(_read(*_stamped(user_path(own))) if own else {})}


def _stamped(path: Path) -> tuple[Path, int]:
    try:
        about = path.stat()
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from None
    if not path.is_file() or about.st_size > _MAX_BYTES:
        raise _unusable(path, f"it is no file of at most {_MAX_BYTES} bytes")
    return path, about.st_mtime_ns


@lru_cache(maxsize=8)
def _read(path: Path, changed_ns: int) -> dict[str, float]:
    """Read one list; `changed_ns` lets a list that was edited be read again."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise _unusable(path, f"it is no readable YAML ({type(error).__name__})") from None
    if not isinstance(document, dict):
        raise _unusable(path, "it holds no table of names and prices")
    return {str(name): _price(path, str(name), entry) for name, entry in document.items()}


def _price(path: Path, name: str, entry: Any) -> float:
    price = entry.get("usd_per_image") if isinstance(entry, dict) else entry
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0.0 <= price < math.inf:
        raise _unusable(path, f"the price of {name!r} is {price!r}, which is no amount of 0 or more")
    return float(price)


def _unusable(path: Path, why: str) -> UserError:
    return UserError(
        f"The price list {str(path)!r} cannot be used: {why}. Allowed is YAML with lines such as "
        f"`bfl/flux-pro-1.1: 0.04`. Correct it, or unset {PRICES_VARIABLE}."
    )
