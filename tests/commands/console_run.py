"""A run of a moment, with loggers that fail, for the tests of the console."""

TOYS = """
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import Logger


class Toy(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss, prog_bar=True)
        return loss


class Refuses(Logger):
    def __init__(self) -> None:
        raise OSError("no room")

    name = version = "x"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class BreaksHalfWay(Refuses):
    def __init__(self) -> None:
        self.calls = 0

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError("gone")
"""
RUN = """
seed_everything: 0
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 4
  limit_train_batches: 2
  limit_val_batches: 0
  log_every_n_steps: 1
  enable_model_summary: false
  default_root_dir: run
  logger: {class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: run, name: logs}}
  callbacks:
    - class_path: evolvedirector.callbacks.checkpoint.RunCheckpoint
model:
  class_path: toys_of_console.Toy
data:
  class_path: lightning.pytorch.demos.boring_classes.BoringDataModule
"""
