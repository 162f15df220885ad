"""Measure how much of a service's capacity an API teacher reaches, and how fast what it buys is recorded.

A server on loopback, in a process of its own, answers every request after 200 ms with an image of about 10 kB, in the
OpenAI Images protocol. With 64 requests in flight the ideal is 320 images per second. Measured are whole replies of
`OpenAIImagesTeacher`: sent, read, decoded, checked, encoded anew.

1. no faults: at least 95 % of the ideal;
2. 20 % of the requests meet a fault (503 and 429 at the door, 500 and a cut connection after half the time; the
   service knows idempotency keys): at least 80 % of the ideal;
3. reserving, blobs and ledger, in the groups of a round: at least 5 times the rate of 1.

Rates are taken between the first and the last tenth of the replies: starting and running dry are no throughput.
"served" is the ideal for the time that the server really took per image, which is longer than 200 ms on a busy machine.

Run: python benchmarks/api_throughput.py [--images 2560] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from evolvedirector.evolution.remembered import in_groups
from evolvedirector.records import ImageReply, ImageRequest, Prompt
from evolvedirector.store import Blobs, Ledger
from evolvedirector.store.ledger import Call
from evolvedirector.teachers import OpenAIImagesTeacher
from evolvedirector.transport.endpoint import Endpoint

IN_FLIGHT = 64
LATENCY_S = 0.2
IMAGE_SIDE_PX = 56
"""Of noise: 9.4 kB as PNG."""


def picture(number: int) -> bytes:
    """Encode one noisy image; every number another one."""
    tiles = np.random.default_rng(number).integers(0, 255, (IMAGE_SIDE_PX, IMAGE_SIDE_PX, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tiles).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def serve(report: Connection, fault_share: float) -> None:
    """Answer until the process is ended; tells its port, then on demand the mean seconds per image."""
    draws = random.Random(0)
    bodies = [json.dumps({"data": [{"b64_json": base64.b64encode(picture(n)).decode()}]}).encode() for n in range(64)]
    taken: list[float] = []

    def head(status: int, length: int, more: str = "") -> bytes:
        return f"HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{more}\r\n".encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                start = time.perf_counter()
                length = next(line for line in request.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                fault = draws.randrange(4) if draws.random() < fault_share else None
                await asyncio.sleep({None: LATENCY_S, 0: 0.0, 1: 0.0}.get(fault, LATENCY_S / 2))
                if fault == 3:
                    break
                if fault is None:
                    body = bodies[len(taken) % len(bodies)]
                    writer.write(head(200, len(body)) + body)
                    taken.append(time.perf_counter() - start)
                else:
                    status = (503, 429, 500)[fault]
                    writer.write(head(status, 0, "Retry-After: 0.5\r\n" if status == 429 else ""))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=4 * IN_FLIGHT)
        report.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(report.recv)
        report.send(sum(taken) / len(taken))

    asyncio.run(main())


@contextmanager
def server(fault_share: float) -> Iterator[tuple[int, Connection]]:
    """Run a server in a process of its own; gives its port and the line to it."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(its, fault_share), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.terminate()
        process.join()


def steady_rate(arrivals: list[float]) -> float:
    """Return replies per second between the first and the last tenth."""
    tenth = len(arrivals) // 10
    return (len(arrivals) - 2 * tenth) / (arrivals[-tenth - 1] - arrivals[tenth - 1])


def teaching_rate(images: int, fault_share: float) -> tuple[float, float, float, list[ImageReply]]:
    """Buy images; returns their rate, the mean seconds the server took per image, our processor seconds per image."""
    with server(fault_share) as (port, line):
        endpoint = Endpoint(f"http://127.0.0.1:{port}", max_in_flight=IN_FLIGHT, attempts=20, idempotent=True)
        teacher = OpenAIImagesTeacher(endpoint, "benchmark")
        side = IMAGE_SIDE_PX
        requests = [ImageRequest(f"r{number}", f"prompt {number}", number, side, side) for number in range(images)]
        replies, arrivals, processor = [], [], time.process_time()
        for reply in teacher.generate(requests):
            arrivals.append(time.perf_counter())
            replies.append(reply)
        processor = time.process_time() - processor
        failed = [reply.reason for reply in replies if reply.status != "image"]
        if failed:
            raise SystemExit(f"{len(failed)} of {images} replies are no images: {failed[0]}")
        line.send(None)
        return steady_rate(arrivals), line.recv(), processor / images, replies


def recording_rate(count: int, folder: Path) -> float:
    """Reserve and settle replies with images that are all different, in the groups of a round."""
    replies = [ImageReply(f"r{number}", "image", picture(number)) for number in range(count)]
    prompts = [Prompt.create(f"prompt {number}") for number in range(count)]
    blobs, ledger = Blobs(folder), Ledger(folder / "ledger.sqlite")
    ledger.prompts.add(prompts)
    start = time.perf_counter()
    for first in range(0, count, 256):
        part, owners = replies[first : first + 256], prompts[first : first + 256]
        calls = [Call(r.request_id, p.id, p.lineage_id, "benchmark") for r, p in zip(part, owners, strict=True)]
        ledger.calls.reserve("round", calls)
        for group in in_groups(part):
            names = blobs.put_many([reply.image or b"" for reply in group])
            ledger.calls.settle(list(zip(group, names, strict=True)))
    seconds = time.perf_counter() - start
    ledger.close()
    return count / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2560, help="images per measurement")
    parser.add_argument("--folder", type=Path, default=None, help="where blobs and ledger are written; None: temporary")
    arguments = parser.parse_args()
    ideal = IN_FLIGHT / LATENCY_S
    print(f"{IN_FLIGHT} in flight, {1000 * LATENCY_S:.0f} ms: ideal {ideal:.0f} images/s, {arguments.images} images")
    rates = {}
    for share, bar in ((0.0, 95), (0.2, 80)):
        rate, taken_s, processor_s, _ = teaching_rate(arguments.images, share)
        rates[share] = rate
        print(
            f"{100 * share:2.0f} % faults: {rate:.0f} images/s = {100 * rate / ideal:.1f} % of ideal (bar {bar} %), "
            f"{100 * rate * taken_s / IN_FLIGHT:.1f} % of served ({1000 * taken_s:.0f} ms); "
            f"{1000 * processor_s:.2f} ms of processor per image"
        )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        recorded = recording_rate(arguments.images, Path(folder))
    print(f"ledger and blobs: {recorded:.0f} images/s = {recorded / rates[0.0]:.1f} times the rate above (bar 5)")


if __name__ == "__main__":
    main()
