"""What a family that lets another one's networks read more hands on unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from evolvedirector.lightning_modules.codecs.codec import Codec
from evolvedirector.lightning_modules.families.family import Family, KeyMap, Layout, PredictsVariance
from evolvedirector.lightning_modules.families.pretrained import Pretrained, StartsPretrained
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart
from evolvedirector.records.condition import Size, TextStates


class WrappedFamily:
    """Say what another family says; who adds something to its networks overrides the rest.

    Args:
        family: Whose networks.
    """

    roles: Sequence[str] = ()

    def __init__(self, family: Family) -> None:
        self.family = family

    @property
    def text_fingerprint(self) -> str:
        """Name what texts are encoded with."""
        return self.family.text_fingerprint

    @property
    def text_encoders(self) -> Mapping[str, FrozenPart]:
        """Name the text encoders of the family."""
        return self.family.text_encoders

    @property
    def codec(self) -> Codec:
        """Return the codec of the family."""
        return self.family.codec

    @property
    def pretrained(self) -> Pretrained | None:
        """Return the weights that the family's network starts from."""
        return self.family.pretrained if isinstance(self.family, StartsPretrained) else None

    @property
    def predicts_variance(self) -> bool:
        """Whether the family's network predicts a variance."""
        return isinstance(self.family, PredictsVariance) and self.family.predicts_variance

    def check_image_size(self, image_size_px: int) -> None:
        """Refuse a size that the family's network is not described for.

        Raises:
            UserError: It is another.
        """
        self.family.check_image_size(image_size_px)

    def tokens(self, size: Size) -> int:
        """Return how many tokens an image has."""
        return self.family.tokens(size)

    def text_bytes(self) -> int:
        """Return what the states of a text take."""
        return self.family.text_bytes()

    def encode_text(self, texts: Sequence[str]) -> TextStates:
        """Return the states of the family."""
        return self.family.encode_text(texts)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """List the family's blocks; what is added to them stays with the rest of the network."""
        return self.family.blocks(network)

    def lora_targets(self) -> Sequence[str]:
        """Name the family's layers."""
        return self.family.lora_targets()

    def key_map(self, layout: Layout) -> KeyMap:
        """Return the names of the family; added parts keep their own."""
        return self.family.key_map(layout)
