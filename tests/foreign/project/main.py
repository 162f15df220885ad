"""The command line of a project that knows nothing of evolvedirector."""

from lightning.pytorch.cli import LightningCLI
from paint import PaintData, Painter

from callbacks import StepCounter

if __name__ == "__main__":
    LightningCLI(Painter, PaintData)
    assert StepCounter.__module__ == "callbacks.counter"
