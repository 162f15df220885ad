"""A reward over a CLIP that is loaded when the first image is scored, and freed between phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.on_demand import ModelOnDemand
from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.rewards.clip_pair import ClipPair
from evolvedirector.rewards.image_batches import ImageBatches


class ClipReward:
    """Score images batch by batch with a CLIP by name; a subclass says what a batch is worth and what it is called.

    Args:
        model: Name on the model hub, or folder with safetensors weights.
        revision: Branch, tag or commit on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.
        load: Loads the CLIP.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(
        self,
        model: str,
        revision: str | None,
        device: str | None,
        batch_size: int,
        load: Callable[[ModelSource, ModelSettings], ClipPair] = ClipPair,
    ) -> None:
        self.model = model
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self._clip = ModelOnDemand(ModelSettings(model, revision, "float32", device=device), load)
        self._batches = ImageBatches(self._values, batch_size)

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item, batch by batch; nan for what is no image.

        Args:
            items: Encoded images of any size, with their prompts where the reward reads them.

        Raises:
            UserError: There is no such model, or one batch does not fit the memory.
        """
        return self._batches.score(items)

    def verify(self) -> None:
        """Check, without loading weights, that the model exists and has safetensors weights.

        Raises:
            UserError: With what is wrong and what to write.
        """
        self._clip.checked_source()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of CLIP's weights from the headers of their files; None if they are not here yet.

        Raises:
            UserError: There is no such model.
        """
        return self._clip.estimated_bytes()

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._clip.close()

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        raise NotImplementedError
