"""ImageReward: a BLIP trained on rankings by experts, as a reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.models.model_loading import rank_device, readable_errors
from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.rewards.aesthetic_score import rating_head
from evolvedirector.rewards.image_batches import ImageBatches
from evolvedirector.rewards.published_weights import digest_of_file, load_renamed, weights_file

_PUBLISHED = "ImageReward.pt"
_MEAN, _DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of its scores over its authors' data: published scores are standardised with them."""
_TEXT_LENGTH = 35
_PIXEL_MEAN, _PIXEL_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SIZES: dict[str, Any] = {  # BLIP with ViT-L/16
    "vision_config": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "patch_size": 16, "image_size": 224, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "hidden_size": 768, "encoder_hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30524, "max_position_embeddings": 512, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "is_decoder": True,
    },
}  # fmt: skip


class ImageReward:
    """Score an image by a BLIP that was trained on 137 thousand comparisons by experts, about -2 to 2.

    ImageReward (Xu et al. 2023, arXiv 2304.05977): the text tower of BLIP reads the prompt while it attends to the
    image; a head turns the state of its first sign into a score, standardised over the authors' data. Prompts are cut
    at 35 signs, as there. The authors publish a pickled file (`ImageReward.pt` in `THUDM/ImageReward`): save it as
    safetensors once, the error for a missing file says how.

    Args:
        model: Folder with `model.safetensors` in the published names, or that file; a `config.json` of a BLIP beside
            it gives other sizes than the published ones.
        tokenizer: Name or folder of BERT's tokenizer.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images scored together.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(
        self,
        model: str,
        tokenizer: str = "google-bert/bert-base-uncased",
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.batch_size = batch_size
        self._blip: _Blip | None = None
        self._words: Any = None
        self._batches = ImageBatches(self._values, batch_size)

    @property
    def fingerprint(self) -> str:
        """Name the weights; neither path nor device."""
        return f"image-reward-1/{digest_of_file(self._file())}"

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
        """Return the size of the weights."""
        return self._file().stat().st_size

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._blip = None

    def _file(self) -> Any:
        return weights_file(self.model, "ImageReward", _PUBLISHED)

    def _load(self) -> _Blip:
        from transformers import AutoTokenizer, BlipConfig

        file = self._file()
        config = file.with_name("config.json")
        blip = _Blip(BlipConfig.from_json_file(config) if config.is_file() else BlipConfig(**_SIZES))
        load_renamed(blip, file, from_published, "ImageReward")
        with readable_errors(self.tokenizer):
            self._words = AutoTokenizer.from_pretrained(self.tokenizer, trust_remote_code=False)
        return blip.to(rank_device(self.device)).eval().requires_grad_(False)

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        self._blip = self._blip or self._load()
        words = self._words(
            prompts, padding="max_length", truncation=True, max_length=_TEXT_LENGTH, return_tensors="pt"
        )
        device = next(self._blip.parameters()).device
        pixels = torch.stack([_seen(image, self._blip.side_px) for image in images]).to(device)
        with torch.inference_mode():
            return self._blip(pixels, words["input_ids"].to(device), words["attention_mask"].to(device)).cpu()


class _Blip(nn.Module):
    """BLIP's image tower, its text tower with cross-attention, and the head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.mlp = rating_head(config.text_config.hidden_size)
        self.side_px: int = config.vision_config.image_size

    def forward(self, pixels: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        seen = self.vision_model(pixel_values=pixels).last_hidden_state
        everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        read = self.text_encoder(
            input_ids=words, attention_mask=mask, encoder_hidden_states=seen, encoder_attention_mask=everywhere
        ).last_hidden_state
        return (self.mlp(read[:, 0].float())[:, 0] - _MEAN) / _DEVIATION


def _seen(image: Tensor, side_px: int) -> Tensor:
    """Scale the short side, cut out the middle, normalise; [3 side side]."""
    height, width = image.shape[1:]
    scale = side_px / min(height, width)
    size = [max(side_px, round(length * scale)) for length in (height, width)]
    scaled = nn.functional.interpolate(image[None].float(), size, mode="bicubic", antialias=True)[0].clamp(0, 255)
    top, left = (size[0] - side_px) // 2, (size[1] - side_px) // 2
    cut = scaled.round()[:, top : top + side_px, left : left + side_px] / 255
    return (cut - torch.tensor(_PIXEL_MEAN)[:, None, None]) / torch.tensor(_PIXEL_DEVIATION)[:, None, None]


_IMAGE_TOWER = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    (".attn.proj.", ".self_attn.projection."),
    (".attn.", ".self_attn."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


def from_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published weights into those of the transformers library; its text tower has the same names.

    Args:
        published: `blip.visual_encoder...`, `blip.text_encoder...` and `mlp.layers...`.
    """
    found: dict[str, Tensor] = {}
    for name, value in published.items():
        if name.startswith("blip.visual_encoder."):
            rest = name.removeprefix("blip.visual_encoder.")
            if rest.startswith("norm."):
                rest = f"post_layernorm.{rest.removeprefix('norm.')}"
            for old, new in _IMAGE_TOWER:
                rest = rest.replace(old, new)
            found[f"vision_model.{rest}"] = value
        elif name.startswith("blip.text_encoder."):
            found[name.removeprefix("blip.")] = value
        elif name.startswith("mlp.layers."):
            found[name.replace("mlp.layers.", "mlp.")] = value
    return found
