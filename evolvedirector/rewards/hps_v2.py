"""HPSv2: a CLIP trained on human preferences, as a reward."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import rank_device
from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.rewards.clip_pair import ClipPair
from evolvedirector.rewards.image_batches import ImageBatches
from evolvedirector.rewards.published_weights import digest_of_file, load_renamed, weights_file

_PUBLISHED = "HPS_v2.1_compressed.pt"
_SIZES: dict[str, Any] = {  # ViT-H/14 of open_clip
    "projection_dim": 1024,
    "vision_config": {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120,
        "patch_size": 14, "image_size": 224, "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu",
    },
}  # fmt: skip


class HPSv2:
    """Score an image by a CLIP ViT-H/14 that was trained on 798 thousand human choices.

    HPSv2 (Wu et al. 2023, arXiv 2306.09341): the cosine of image and prompt, about .2 to .35. Images are padded to
    squares in black, as its own code does. The authors publish a pickled file of open_clip (`HPS_v2.1_compressed.pt` in
    `xswu/HPSv2`): save its weights as safetensors once, the error for a missing file says how.

    Args:
        model: Folder with `model.safetensors` in open_clip's names, or that file; a `config.json` of a CLIP beside it
            gives other sizes than ViT-H/14.
        processor: Name or folder of the tokenizer and image processor.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(
        self,
        model: str,
        processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model = model
        self.processor = processor
        self.device = device
        self.batch_size = batch_size
        self._clip: ClipPair | None = None
        self._batches = ImageBatches(self._values, batch_size)

    @property
    def fingerprint(self) -> str:
        """Name the weights; neither path nor device."""
        return f"hps-v2-1/{digest_of_file(self._file())}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item, batch by batch; nan for what is no image.

        Args:
            items: Encoded images of any size with their prompts.

        Raises:
            UserError: There are no such weights, or one batch does not fit the memory.
        """
        return self._batches.score(items)

    def verify(self) -> None:
        """Check that the weights are there as safetensors.

        Raises:
            UserError: With what to convert, and the command.
        """
        self._file()

    def estimated_bytes(self) -> int:
        """Return the size of the weights in fp32, at most twice the file."""
        return 2 * self._file().stat().st_size

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._clip = None

    def _file(self) -> Any:
        return weights_file(self.model, "HPSv2", _PUBLISHED, "state_dict")

    def _load(self) -> ClipPair:
        from transformers import CLIPConfig, CLIPModel

        file = self._file()
        config = file.with_name("config.json")
        sizes = CLIPConfig.from_json_file(config) if config.is_file() else CLIPConfig(**_SIZES)
        model: Any = CLIPModel(sizes)
        load_renamed(model, file, from_open_clip, "HPSv2")
        model = model.to(rank_device(self.device)).eval().requires_grad_(False)
        source = ModelSource(self.model, file.parent, None)
        return ClipPair(source, ModelSettings(self.model, device=self.device), self.processor, model)

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        self._clip = self._clip or self._load()
        return self._clip.cosines([padded_square(image) for image in images], prompts)


def padded_square(image: Tensor) -> Tensor:
    """Put an image into the middle of a black square.

    Args:
        image: uint8, [3 h w].
    """
    height, width = image.shape[1:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return torch.nn.functional.pad(image, (left, side - width - left, top, side - height - top))


_TOWERS = {"visual.transformer.resblocks.": "vision_model.encoder.layers.",
           "transformer.resblocks.": "text_model.encoder.layers."}  # fmt: skip
_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_PLAIN = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}


def from_open_clip(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of open_clip's CLIP into those of the transformers library.

    Queries, keys and values lie in one matrix there, in this order; projections are transposed.

    Args:
        published: By open_clip's names.
    """
    found: dict[str, Tensor] = {}
    for name, value in published.items():
        if name in _PLAIN:
            found[_PLAIN[name]] = value
        elif name in ("visual.proj", "text_projection"):
            found["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = value.T
        elif tower := next((start for start in _TOWERS if name.startswith(start)), None):
            layer, _, rest = name.removeprefix(tower).partition(".")
            place = f"{_TOWERS[tower]}{layer}."
            if joined := re.fullmatch(r"attn\.in_proj_(weight|bias)", rest):
                for part, third in zip("qkv", value.chunk(3), strict=True):
                    found[f"{place}self_attn.{part}_proj.{joined[1]}"] = third
            else:
                block, _, kind = rest.rpartition(".")
                found[f"{place}{_BLOCK.get(block, block)}.{kind}"] = value
    return found
