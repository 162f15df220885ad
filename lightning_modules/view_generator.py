"""A model that shows an object from elsewhere, as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.sampling import drawing
from evolvedirector.lightning_modules.subject_to_image import SubjectToImage
from evolvedirector.lightning_modules.subjects.subject_student import SubjectDrawing, SubjectTraining
from evolvedirector.lightning_modules.subjects.view_family import ViewFamily
from evolvedirector.models.evaluated_weights import evaluated_weights
from evolvedirector.records.poses import POSE
from evolvedirector.records.subject_roles import REFERENCES


class ViewGenerator(SubjectToImage):
    """Train a network on several views of objects, and draw an object from elsewhere: Toffee's View Generator.

    The paper (Zhou et al. 2024, arXiv:2406.09305) trains it once, for any number of subjects, on MVImgNet; how it is
    made is our design. It is `SubjectToImage` with one reference, a pose in place of words, and no edits. Training
    batches have `image`, `reference`, `pose` float (batch, 4), `prompt` (what the object is called) and `sample_seed`;
    requests bring the files `reference` and `pose`. `ViewDataModule` makes the batches.

    An object keeps the plain ground of its reference, from which whoever asked cuts it out again (`TrainedView`).

    Args:
        family: Whose networks read a view and a pose.
        objective: What the network predicts, and how images are sampled from that.
        image_size_px: Side of the square views that are drawn.
        training: How it learns; of the words for `SubjectToImage`, `reference_dropout` alone has an effect here.
        subject: How strongly a drawing follows its reference. None: the defaults.
        guidance_scale: Classifier-free guidance over the text, which names the object alone; 1 is none.
        kwargs: As for `TextToImage`.

    Raises:
        UserError: The parts do not fit each other, or a number is out of range.
    """

    def __init__(
        self,
        family: ViewFamily,
        objective: Objective,
        image_size_px: int,
        training: SubjectTraining | None = None,
        subject: SubjectDrawing | None = None,
        guidance_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(family, objective, image_size_px, training, subject, guidance_scale=guidance_scale, **kwargs)

    @property
    def needed_roles(self) -> Sequence[str]:
        """Files that it cannot do without."""
        return (REFERENCES[0], POSE)

    def validation_step(  # type: ignore[override]
        self, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Log the loss of objects that are held out."""
        self._log_loss("val", batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # type: ignore[override]
        """Log the loss of objects that are held out."""
        self._log_loss("test", batch)

    def _log_loss(self, stage: str, batch: Mapping[str, Any]) -> None:
        with evaluated_weights(self._optimizers), drawing(self):
            student = self.student()
            whole = replace(student.training, reference_dropout=0.0)
            loss = replace(student, training=whole).training_losses(batch, 0.0).mean()
        self.log(f"{stage}/loss", loss, batch_size=len(batch["prompt"]), sync_dist=True)
