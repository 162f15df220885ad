"""Whether a chat endpoint can be used at all, found out without a paid request."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.transport.client import Client
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault
from evolvedirector.transport.run_concurrently import run_concurrently

_NO_SUCH_PATH = (404, 405, 501)
_LISTED = 8


def check_served_model(endpoint: Endpoint, model: str, needs_images: bool = False) -> None:
    """Ask an endpoint for the list of its models, which costs nothing, and look the model up.

    A service without such a list is sent an empty chat request, which none answers and none bills: its complaint
    shows that the address is right. That a model takes images is checked only where the list says so.

    Args:
        endpoint: Service, key and limits.
        model: Name of the model.
        needs_images: Whether it must take images.

    Raises:
        ValueError: Unreachable, wrong key, wrong address, unknown model, or a model without image input.
    """
    patient = replace(endpoint, attempts=2, timeout_s=min(20.0, endpoint.timeout_s), deadline_s=30.0)
    try:
        (listed,) = run_concurrently([patient], _list_models, lambda: Client(patient), 1)
    except TransportFault as fault:
        end = "" if fault.reason.endswith(("?", ".")) else "."
        raise ValueError(f"The model {model!r} cannot be asked: {fault.reason}{end}") from None
    entries = _entries(listed)
    if not entries:
        return
    entry = next((entry for name, entry in entries if name == model or fnmatch.fnmatchcase(model, name)), None)
    if entry is None:
        names = [name for name, _ in entries]
        near = difflib.get_close_matches(model, names, n=_LISTED, cutoff=0.3) or sorted(names)[:_LISTED]
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        raise UserError(
            f"{endpoint.host} serves no model called {model!r}. It serves {', '.join(map(repr, near))}{more}. "
            f"Write `model: {near[0]}`."
        )
    if needs_images and _takes_images(entry) is False:
        raise UserError(
            f"The model {model!r} of {endpoint.host} takes no images. A judge needs a vision-language model. "
            "Write the name of one that takes images."
        )


async def _list_models(client: Client, endpoint: Endpoint) -> Any:
    try:
        return await client.request_json("GET", "models")
    except TransportFault as fault:
        if fault.status not in _NO_SUCH_PATH:
            raise
    try:
        await client.request_json("POST", "chat/completions", body={})
    except TransportFault as fault:
        if fault.status in _NO_SUCH_PATH:
            reason = f"{endpoint.host} knows neither `models` nor `chat/completions` under the base_url"
            hint = "Write it with its version, such as https://api.openai.com/v1"
            raise TransportFault("rejected", f"{reason}. {hint}", fault.status) from None
        if fault.kind not in ("rejected", "busy"):
            raise
    return None


def _entries(listed: object) -> list[tuple[str, Mapping[str, Any]]]:
    """Find names and descriptions in `{"data": [...]}` or a bare list; empty where nothing can be concluded."""
    if isinstance(listed, Mapping):
        if listed.get("has_more"):  # the first page of several proves nothing
            return []
        listed = listed.get("data")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    entries = [entry for entry in listed if isinstance(entry, Mapping)]
    return [(entry["id"], entry) for entry in entries if isinstance(entry.get("id"), str)]


def _takes_images(entry: Mapping[str, Any]) -> bool | None:
    """Read from a model's description whether it takes images; None where it says nothing."""
    described, able = entry.get("architecture"), entry.get("capabilities")
    modalities = described.get("input_modalities") if isinstance(described, Mapping) else None
    if isinstance(modalities, Sequence) and modalities and not isinstance(modalities, str):
        return "image" in modalities
    vision = able.get("vision") if isinstance(able, Mapping) else None
    return vision if isinstance(vision, bool) else None
