"""Prompts to draw as batches of image requests: the same chunks whatever the number of ranks."""

from __future__ import annotations

import warnings
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


class RequestLoader:
    """Deal chunks of requests to ranks, equally many each.

    The global list is cut into chunks first. The last chunk is filled by repeating its last request, and chunks are
    repeated until every rank has equally many; whoever gathers the images drops repeated request ids.
    """

    def __init__(self, requests: Sequence[ImageRequest], size: int, rank: int = 0, world_size: int = 1) -> None:
        """Cut and deal.

        Args:
            requests: The global list, the same on every rank; may be empty.
            size: Requests per chunk.
            rank: Which process this is.
            world_size: How many there are.
        """
        chunks = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
        if chunks:
            chunks[-1] += [chunks[-1][-1]] * (size - len(chunks[-1]))
            chunks += [chunks[-1]] * (-len(chunks) % world_size)
        else:  # having nothing to evaluate is a choice, no accident to warn of
            warnings.filterwarnings("ignore", "Total length of `RequestLoader` across ranks is zero")
        self._chunks = chunks[rank::world_size]

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[RequestChunk]:
        return map(RequestChunk, self._chunks)
