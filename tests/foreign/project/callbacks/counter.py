"""A callback of the project."""

from lightning.pytorch import Callback, LightningModule, Trainer


class StepCounter(Callback):
    """Say at the end how long the training was."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(f"counted {trainer.global_step} steps")
