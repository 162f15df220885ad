"""HTTP/1.1 on a socket, by the book or against it."""

from __future__ import annotations

import asyncio

from tests.chaos.exchange import Request, Response


async def read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


async def deliver(writer: asyncio.StreamWriter, response: Response) -> bool:
    """Send a response in its way; returns whether the connection may serve another request."""
    body, how = response.body, response.delivery
    if how == "cut_early":
        writer.transport.abort()
        return False
    length = {"length_too_small": len(body) // 2, "length_too_large": len(body) + 1000}.get(how, len(body))
    headers = {"content-length": str(length), **response.headers}
    if how == "length_too_small":
        # Whole by its length: unannounced, the end of the connection would meet another request by chance.
        headers["connection"] = "close"
    if how == "endless":
        headers = {"content-type": headers.get("content-type", ""), "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {response.status} chaos\r\n{head}\r\n".encode("latin-1"))
    if how == "hang":
        await asyncio.sleep(3600)
    if how == "drip":
        for position in range(len(body)):
            writer.write(body[position : position + 1])
            await writer.drain()
            await asyncio.sleep(0.02)
        return True
    if how == "endless":
        while True:
            writer.write(b" " * 2**16)
            await writer.drain()
    writer.write(body[: len(body) // 2] if how == "cut_body" else body[:length] if how == "length_too_small" else body)
    await writer.drain()
    return how not in ("cut_body", "length_too_large", "length_too_small")
