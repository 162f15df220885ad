"""A logger that may fail: figures on a screen are never worth a training run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from PIL import Image

Result = TypeVar("Result")
_PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet-ml", "NeptuneLogger": "neptune"}
_SECRET_ENDINGS = ("api_key", "token", "secret", "password")


class ForgivingLogger(Logger):
    """Pass everything on to another logger until it fails; then warn once and go on without it.

    A missing package, a folder that cannot be written, a full disk, a service that does not answer: the first failure
    is a warning that names it, and the logger is left out for the rest of the run (a service that times out at every
    call would cost hours). `evolvedirector fit` puts every logger of a config into one of these; elsewhere write it:

    Example:
        ```yaml
        logger:
          class_path: evolvedirector.callbacks._run.forgiving_logger.ForgivingLogger
          init_args:
            logger: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: mine}}
        ```
    """

    def __init__(self, logger: Callable[[], Logger] | Logger, name: str | None = None) -> None:
        """Make the logger, or warn that there will be none.

        Args:
            logger: The logger, or what makes it (so that a failure to make it is forgiven too).
            name: What warnings call it. None: the name of its class.
        """
        super().__init__()
        self._inner: Logger | None = None
        self._called = name or (type(logger).__name__ if isinstance(logger, Logger) else "logger")
        try:
            self._inner = logger if isinstance(logger, Logger) else logger()
        except Exception as error:
            self._leave_out(error)
        if name is None and self._inner is not None:
            self._called = type(self._inner).__name__

    @property
    def works(self) -> bool:
        """Whether nothing has failed yet."""
        return self._inner is not None

    @property
    def kind(self) -> str:
        """Class of the inner logger, by name."""
        return self._called

    @property
    def name(self) -> str | None:
        """The inner logger's name; None without one."""
        return self._asked(lambda inner: inner.name, None)

    @property
    def version(self) -> int | str | None:
        """The inner logger's version; None without one."""
        return self._asked(lambda inner: inner.version, None)

    @property
    def root_dir(self) -> str | None:
        """The folder of all versions; None without one."""
        return self._asked(lambda inner: inner.root_dir, None)

    @property
    def log_dir(self) -> str | None:
        """The folder of this version; None without one."""
        return self._asked(lambda inner: inner.log_dir, None)

    @property
    def save_dir(self) -> str | None:
        """The folder the inner logger writes into; None without one."""
        return self._asked(lambda inner: inner.save_dir, None)

    @property
    def group_separator(self) -> str:
        """What stands between a group and a name; the names of this project have a slash."""
        return self._asked(lambda inner: inner.group_separator, "/")

    @property
    def experiment(self) -> Any:
        """The inner logger's own object; one that accepts everything where there is none."""
        return self._asked(lambda inner: getattr(inner, "experiment", None), None) or DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass on."""
        self._asked(lambda inner: inner.log_metrics(dict(metrics), step), None)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Pass on what is no secret."""
        self._asked(lambda inner: inner.log_hyperparams(_without_secrets(params), *args, **kwargs), None)

    @rank_zero_only
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Show a picture wherever the inner logger can; one that knows figures only is left alone.

        Args:
            name: Group and name, with a slash.
            picture: RGB.
            step: Global step.
        """
        self._asked(lambda inner: _show(inner, name, picture, step), None)

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Pass on."""
        self._asked(lambda inner: inner.log_graph(*args, **kwargs), None)

    def save(self) -> None:
        """Pass on."""
        self._asked(lambda inner: inner.save(), None)

    def finalize(self, status: str) -> None:
        """Pass on."""
        self._asked(lambda inner: inner.finalize(status), None)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Pass on."""
        self._asked(lambda inner: inner.after_save_checkpoint(checkpoint_callback), None)

    def __getattr__(self, name: str) -> Any:
        """Offer what only the inner logger has (`log_text`, `watch`), as forgiving as the rest."""
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._inner, name) if self._inner is not None else lambda *args, **kwargs: None
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._asked(lambda inner: found(*args, **kwargs), None)

    def _asked(self, do: Callable[[Any], Result], otherwise: Result) -> Result:
        if self._inner is None:
            return otherwise
        try:
            return do(self._inner)
        except Exception as error:
            self._leave_out(error)
            return otherwise

    def _leave_out(self, error: Exception) -> None:
        self._inner = None
        package = _PACKAGES.get(self._called)
        reason = f"{type(error).__name__}: {redacted(' '.join(str(error).split()) or 'no reason given')[:300]}"
        advice = ""
        if package and isinstance(error, ModuleNotFoundError):
            reason = f"the package {package} is not installed"
            advice = f" Write `pip install {package}`, or take the logger out of the config."
        elif package == "wandb":
            advice = " Write `offline: true` under the logger's `init_args`, or run `wandb login` first."
        rank_zero_warn(f"{self._called} is left out of this run, training goes on: {reason.rstrip('.')}.{advice}")


def redacted(text: str) -> str:
    """Replace the values of environment variables that hold secrets by the variables' names."""
    for variable, value in os.environ.items():
        if len(value) >= 6 and variable.lower().endswith(_SECRET_ENDINGS):
            text = text.replace(value, f"<{variable}>")
    return text


def _without_secrets(params: Any) -> Any:
    entries = vars(params) if hasattr(params, "__dict__") and not isinstance(params, Mapping) else params
    if not isinstance(entries, Mapping):
        return params
    return {
        key: "<not shown>" if value and str(key).lower().endswith(_SECRET_ENDINGS) else _without_secrets(value)
        for key, value in entries.items()
    }


def _show(logger: Any, name: str, picture: Image.Image, step: int) -> None:
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
    elif hasattr(logger, "log_image"):  # Weights & Biases and alike
        logger.log_image(name, [picture], step=step)
