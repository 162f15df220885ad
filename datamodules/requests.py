"""Prompts to draw as batches of image requests: the same chunks whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.records import ImageRequest, Prompt, seed_of


class RequestChunk:
    """A fixed number of requests that travels through Lightning unopened.

    Lightning walks into lists to move and convert tensors and fails at the frozen requests in them; what is no list
    passes untouched. The datamodule hands the list on when the batch is moved.
    """

    def __init__(self, requests: Sequence[ImageRequest]) -> None:
        self.requests = list(requests)

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[ImageRequest]:
        return iter(self.requests)

    def __getitem__(self, position: int) -> ImageRequest:
        return self.requests[position]


def requests_for(prompts: Sequence[Prompt], image_size_px: int, seed: int) -> list[ImageRequest]:
    """Ask for one image per prompt, with a seed that follows from the prompt alone."""
    return [
        ImageRequest(
            p.id, p.text, seed_of("request", seed, p.id), p.width_px or image_size_px, p.height_px or image_size_px
        )
        for p in prompts
    ]


def rank_chunks(requests: Sequence[ImageRequest], size: int, rank: int, world_size: int) -> list[RequestChunk]:
    """Cut the global list into chunks, then deal them to ranks.

    The last chunk is filled by repeating its last request, and chunks are repeated until every rank has equally many;
    whoever gathers the images drops repeated request ids.
    """
    chunks = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
    if not chunks:
        return []
    chunks[-1] += [chunks[-1][-1]] * (size - len(chunks[-1]))
    chunks += [chunks[-1]] * (-len(chunks) % world_size)
    return [RequestChunk(chunk) for chunk in chunks[rank::world_size]]
