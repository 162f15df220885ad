"""A model that draws a picture from its own patch features, as a LightningModule: the Refiner of subject pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.sampling import drawing
from evolvedirector.lightning_modules.subjects.feature_family import FeatureFamily
from evolvedirector.lightning_modules.subjects.feature_student import FeatureStudent, FeatureTraining
from evolvedirector.lightning_modules.text_to_image import TextToImage
from evolvedirector.records.part import Part
from evolvedirector.records.plain_settings import settings_of
from evolvedirector.records.subject_roles import FEATURES


class FeatureRefiner(TextToImage):
    """Train a network to draw an image from its own patch features (Toffee, arXiv:2406.09305; our reading).

    It needs images alone, no pairs: features are those of each training image. Afterwards it draws from any grid of
    features, such as a draft's with a subject's matched into it (`evolvedirector.pairs.TrainedRefiner`), so that one
    training serves any number of subjects. The paper does not say how its Refiner is trained; this is the simplest
    reading in which nothing is trained for a subject.

    Batches are those of `TextToImage`, with pixels. Requests may bring the role `features`, an npy array of floats
    [row, column, dimension]; patches that are NaN are not known. A request without it is drawn from its words alone.

    Args:
        family: Whose networks draw from features.
        objective: What the network predicts, and how images are sampled from that.
        image_size_px: Side of the square images that are drawn where nobody asks for another size.
        training: How features are made worse for training. None: the defaults.
        feature_guidance_scale: Of classifier-free guidance over the features; 1 is none.
        latent_cache_gib: Must be 0: features are those of pixels, which cached latents replace.
        kwargs: As for `TextToImage`; `condition_dropout: 1.0` reads no text at all.

    Raises:
        UserError: The parts do not fit each other, or a number is out of range.
    """

    def __init__(
        self,
        family: FeatureFamily,
        objective: Objective,
        image_size_px: int,
        training: FeatureTraining | None = None,
        feature_guidance_scale: float = 1.0,
        latent_cache_gib: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(family, objective, image_size_px, latent_cache_gib=latent_cache_gib, **kwargs)
        self.feature_training = settings_of(FeatureTraining, training or FeatureTraining(), "training")
        self.feature_guidance_scale = feature_guidance_scale
        numbers = self.feature_training
        shares = (numbers.feature_dropout, numbers.patch_dropout, numbers.patch_shift)
        if not all(0 <= share < 1 for share in shares[:2]) or not 0 <= shares[2] <= 1:
            raise UserError(
                f"feature_dropout is {shares[0]}, patch_dropout {shares[1]} and patch_shift {shares[2]}. Allowed are "
                "shares from 0, the first two below 1. Write feature_dropout: 0.1, patch_dropout: 0.05, patch_shift: "
                "0.2."
            )
        if latent_cache_gib and not isinstance(family.codec, Pixels):
            raise UserError(
                f"latent_cache_gib is {latent_cache_gib}, but features are those of pixels, which cached latents "
                "replace. Allowed is 0. Write latent_cache_gib: 0."
            )
        if self.trained.adapters:
            raise UserError(
                "trained names a LoRA, but the parts that read features begin at random and must be trained whole. "
                "Allowed is training the whole network. Write model.init_args.trained: null."
            )

    def parts(self) -> Mapping[str, Part]:
        """Name what the model is built of, the encoder of features with it."""
        return {**super().parts(), "features": cast(FeatureFamily, self.family).features}

    @property
    def file_roles(self) -> Sequence[str]:
        """Roles of files that a drawing reads, where a request has them."""
        return (FEATURES,)

    def student(self) -> FeatureStudent:
        """Return the network with what it reads; it is built where it is not yet."""
        self.configure_model()
        parts = (self.family, self.objective, cast(nn.Module, self.transformer), self.text_states, self.device)
        return FeatureStudent(*parts, self.feature_training, self.feature_guidance_scale)

    def patch_features(self, images: Tensor) -> Tensor:
        """Return what pictures show, patch by patch: Float[batch, row, column, dimension], on the CPU.

        Args:
            images: uint8 [batch, 3, height, width], of one size.

        Raises:
            UserError: The encoder gives features of another dimension than it says.
        """
        with drawing(self):
            return self.student().features(images).float().cpu()

    @property
    def _frozen_parts(self) -> dict[str, str]:
        return {**super()._frozen_parts, "features": cast(FeatureFamily, self.family).features.fingerprint}
