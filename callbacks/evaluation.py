"""When a student is measured: draws for the suites of an evaluation, lets them read, logs and prints what came out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from evolvedirector.callbacks._run.drawing import MeasuresEdits, draw_share, embedded_share, encode_png
from evolvedirector.callbacks._run.evaluation_file import report_evaluation
from evolvedirector.callbacks._run.finite import refuse_nonfinite_weights
from evolvedirector.callbacks._run.held_out import (
    held_out_prompts,
    joined_readings,
    reading_is_due,
    size_to_draw_px,
    training_judges,
    warn_of_training_judge,
    with_held_out_files,
)
from evolvedirector.callbacks._run.host_checks import evolving_data_of, is_smoke_test
from evolvedirector.callbacks._run.suite_costs import images_of, looks_of, rows_of
from evolvedirector.callbacks._run.suite_names import folders_of, logged_of, repeated_suites, summary_of
from evolvedirector.callbacks._run.suite_reading import outcome_of, tried
from evolvedirector.callbacks._run.to_loggers import log_figures
from evolvedirector.errors import RunError, UserError
from evolvedirector.evaluation.prompt_choice import all_sized, unknown_size
from evolvedirector.evaluation.suite import (
    Asked,
    AsksTeachers,
    AsksTrainingJudge,
    ChoosesFiles,
    Drawn,
    NeedsMastered,
    Offered,
    Outcome,
    ReadsEdits,
    ReadsEmbeddings,
    ReadsValidation,
    Sitting,
    Suite,
)
from evolvedirector.evolution import ImageGenerator
from evolvedirector.execution.ranks import from_all_ranks
from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.planning.roles import PlannedImages, PlannedRun
from evolvedirector.planning.spending import Reader
from evolvedirector.records import ImageRequest, Prompt
from evolvedirector.records.part import Part, Verifiable
from evolvedirector.records.questions import QuestionAnswerer
from evolvedirector.store.revision import RevisionFiles

_MEMBERS = ("every_n_epochs", "reads_alone", "prompts", "requests", "read", "figures", "parts", "looks")


class EvaluationCallback(pl.Callback):
    """Measure the student with suites of prompts: when training ends, every so many epochs, and in `validate`.

    A suite says which prompts are drawn, who reads them and which figures come out; this callback draws (averaged
    weights, each rank its share), gathers, logs and reports. The figures stand in `summary.json` under the suites' own
    keys and as a table under `suites`, each row with its 95 % interval. `evolvedirector validate -c ... --ckpt_path
    last` measures a finished run without training it: it prints the table and writes it to `evaluation.json` in the
    run folder. A reader that breaks during a training costs the figures of its suite (a warning), not the run.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.EvaluationCallback
          init_args:
            suites:
              held_out:
                class_path: evolvedirector.evaluation.suites.HeldOutAccuracy
                init_args: {reader: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}, seeds_per_prompt: 4}
              win_rate:
                class_path: evolvedirector.evaluation.suites.TeacherComparison
                init_args:
                  judge: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
                  teachers: {exact: {class_path: evolvedirector.worlds.shapes.MiniatureTeacher}}
        ```
    """

    def __init__(self, suites: dict[str, Suite], in_validate: bool = True) -> None:
        """Set what is measured.

        Args:
            suites: By a name of your choice: it stands in the table, in the log keys of new suites and in messages,
                and before every key (`second/accuracy_mean`) where a suite of the same class stands before.
            in_validate: Whether `validate` and `test` run every suite, those that ask teachers included; False: only
                those that read the loop's own images.

        Raises:
            UserError: No suite, or something that is none; a name that cannot tell two of one class apart.
        """
        super().__init__()
        if not suites:
            raise UserError(
                "suites is empty. Allowed: at least one. Write `suites: {held_out: {class_path: "
                "evolvedirector.evaluation.suites.HeldOutAccuracy, init_args: {reader: ...}}}`, say."
            )
        for name, suite in suites.items():
            if missing := [member for member in _MEMBERS if member not in dir(suite)]:
                raise UserError(
                    f"suites.{name} is a {type(suite).__name__}, which is no suite: it lacks {', '.join(missing)}. "
                    "Allowed is every class with the members of evolvedirector.evaluation.suite.Suite. Write one of "
                    "evolvedirector.evaluation.suites."
                )
        self.suites = suites
        self.in_validate = in_validate
        self._repeated = repeated_suites(suites)  # names of those whose class has stood before
        self._outcomes: dict[str, Outcome] = {}
        self._read_at: dict[str, int] = {}  # global step of the last reading, or attempt, of its own
        self._validated_at: dict[str, int] = {}  # global step of the last validation that a suite read
        self._readings: dict[str, dict[str, Any]] = {}  # of the validation that runs
        self._errors: dict[str, str] = {}  # why a reader broke off in it
        self._measured: set[str] = set()  # since it began; outcomes of others may be those of an earlier step
        self._loaded_step = 0
        self._held_out: dict[str, Prompt] = {}
        self._asked: dict[str, tuple[ImageRequest, Prompt]] = {}

    # ---- state

    @property
    def state_key(self) -> str:
        """Tell several instances apart by their suites."""
        return f"EvaluationCallback[{','.join(sorted(self.suites))}]"

    def state_dict(self) -> dict[str, Any]:
        """Keep the last figures, so that a resumed run that ends at once still reports them."""
        outcomes = {name: outcome.to_plain() for name, outcome in self._outcomes.items()}
        return {"outcomes": outcomes, "read_at": dict(self._read_at), "validated_at": dict(self._validated_at)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the last figures."""
        self._outcomes = {name: Outcome.from_plain(plain) for name, plain in state_dict["outcomes"].items()}
        self._read_at, self._validated_at = dict(state_dict["read_at"]), dict(state_dict["validated_at"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the step of the weights: where nothing is trained, the trainer's own count stays 0."""
        self._loaded_step = checkpoint.get("global_step", 0)

    # ---- before anything is bought

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what no suite could work with; warn when a reader chooses the training data too.

        Raises:
            RunError: The data does not evolve, or the size of the images is unknown.
            UserError: A suite refuses its prompts or settings, or its name stands in another callback.
        """
        before = itertools.takewhile(lambda other: other is not self, trainer.callbacks)  # type: ignore[attr-defined]
        earlier = [other.suites for other in before if isinstance(other, EvaluationCallback)]
        self._repeated = repeated_suites(self.suites, earlier)
        if stage == "fit" or (stage in ("validate", "test") and self.in_validate):
            for name, suite in self.suites.items():
                self._check(trainer, pl_module, name, suite)

    def parts(self) -> dict[str, Part]:
        """Name the suites that can check themselves, and their readers and teachers, for those who verify and size."""
        found: dict[str, Part] = {}
        for name, suite in self.suites.items():
            if isinstance(suite, Verifiable):
                found[self._place(name, "")] = suite
            found |= {self._place(name, part): value for part, value in suite.parts().items()}
        return found

    def planned_images(self) -> PlannedImages:
        """Say whom the suites ask for images: once for each prompt and teacher."""
        return images_of(self.suites)

    def planned_looks(self, run: PlannedRun) -> list[Reader]:
        """Count the looks of a whole training: of each suite's own readings, and of the validations that it reads."""
        return looks_of(self.suites, run, lambda suite, part: f"{type(self).__name__}.{self._place(suite, part)}")

    def plan_summary(self) -> dict[str, str]:
        """Say what evaluation may cost, for `evolvedirector check`."""
        return rows_of(self.suites)

    # ---- when

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a reading of all held-out prompts."""
        self._held_out = {prompt.id: prompt for prompt in held_out_prompts(trainer)}
        self._readings, self._errors, self._asked = {name: {} for name in self.suites}, {}, {}
        self._measured = set()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let the suites that read validation see the images of one batch."""
        readers = [(name, suite) for name, suite in self.suites.items() if isinstance(suite, ReadsValidation)]
        if is_smoke_test(trainer) or not readers or outputs is None:  # a batch that asks for no image
            return
        drawn = self._drawn(outputs, batch)
        for name, suite in readers:
            if name not in self._errors:
                sitting = self._sitting(trainer, pl_module, name, suite, self._asked, from_validation=True)
                readings, error = tried(
                    lambda suite=suite, sitting=sitting: suite.read(drawn, sitting),  # type: ignore[misc]
                    forgives=_trains(trainer),
                )
                self._readings[name] |= readings or {}
                if error:
                    self._errors[name] = error

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report what validation showed; where nothing is trained, run the other suites too."""
        if trainer.sanity_checking:  # a few prompts before training are no figure
            return
        for name, suite in self.suites.items():
            if isinstance(suite, ReadsValidation):
                self._finish_validation(trainer, pl_module, name, suite)
        if trainer.state.fn != TrainerFn.FITTING and self.in_validate:
            for name in self.suites:
                self._measure(trainer, pl_module, name, strict=True)

    # the test loop is read as the validation loop is
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what is due, and everything in the last epoch, before the last checkpoint is saved."""
        for name, suite in self.suites.items():
            if reading_is_due(trainer, suite.every_n_epochs):
                self._measure(trainer, pl_module, name)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure if training ended elsewhere than at the end of an epoch."""
        for name in self.suites:
            self._measure(trainer, pl_module, name)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Print the table of a validation or test, and keep it in the run folder."""
        if stage not in ("validate", "test") or not trainer.is_global_zero or is_smoke_test(trainer):
            return
        measuring = [other for other in trainer.callbacks if isinstance(other, EvaluationCallback)]  # type: ignore[attr-defined]
        if measuring[0] is not self:  # one table, one file
            return
        report_evaluation(
            trainer,
            stage,
            self._step(trainer),
            {name: outcome.rows for other in measuring for name, outcome in other._now().items()},
            [other._entries(other._now()) for other in measuring],
        )

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`."""
        return self._entries(self._outcomes)

    # ---- how

    def _now(self) -> dict[str, Outcome]:
        return {name: outcome for name, outcome in self._outcomes.items() if name in self._measured}

    def _entries(self, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, outcome in outcomes.items():
            entries |= summary_of(name, outcome, name in self._repeated)
        tables = {name: outcome.to_plain()["rows"] for name, outcome in outcomes.items() if outcome.rows}
        return entries | ({"suites": tables} if tables else {})

    def _place(self, suite: str, part: str) -> str:
        """Name a part by where it is written, for messages; an empty part is the suite itself."""
        return f"suites.{suite}.{part}" if part else f"suites.{suite}"

    def _check(self, trainer: pl.Trainer, module: pl.LightningModule, name: str, suite: Suite) -> None:
        who = f"{type(self).__name__} ({name})"
        data = suite.mastered_of() if isinstance(suite, NeedsMastered) else None
        if isinstance(suite, NeedsMastered):
            try:
                evolving_data_of(trainer, data)
            except RuntimeError as error:
                raise RunError(f"{who} reads the mastered prompts of an evolving dataset. {error}") from None
        if isinstance(suite, Verifiable):
            suite.verify()
        size_px = size_to_draw_px(trainer, module, data)
        prompts = suite.prompts(Offered(held_out_prompts(trainer), (), size_px))
        unsized = size_px is None if isinstance(suite, NeedsMastered) else not all_sized(prompts, size_px)
        if unsized and isinstance(module, ImageGenerator) and not isinstance(suite, ReadsValidation):
            raise RunError(unknown_size(type(module).__name__, who))
        for part, reader in suite.parts().items() if training_judges(trainer) else ():
            if isinstance(reader, Judge | QuestionAnswerer):
                warn_of_training_judge(trainer, reader, f"{type(self).__name__}.{self._place(name, part)}")

    def _step(self, trainer: pl.Trainer) -> int:
        return trainer.global_step if trainer.state.fn == TrainerFn.FITTING else self._loaded_step

    def _offered(self, trainer: pl.Trainer, module: pl.LightningModule, suite: Suite) -> Offered:
        mastered: list[Prompt] = []
        data = suite.mastered_of() if isinstance(suite, NeedsMastered) else None
        if isinstance(suite, NeedsMastered):
            host = evolving_data_of(trainer, data)
            files = RevisionFiles(host.data_root)  # only files are read, never the ledger: a round may be running
            state = files.load(files.resolve(host.revision_sha)).state
            mastered = [entry.prompt for entry in state.in_state("mastered")]
        return Offered(held_out_prompts(trainer), mastered, size_to_draw_px(trainer, module, data), self._step(trainer))

    def _sitting(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        name: str,
        suite: Suite,
        asked: Asked,
        offered: Offered | None = None,
        from_validation: bool = False,
    ) -> Sitting:
        if offered is None:
            offered = Offered(list(self._held_out.values()), (), None, self._step(trainer))
        judge = None
        if isinstance(suite, AsksTrainingJudge) and suite.compare_with_training_judge:
            own = [part for part in suite.parts().values() if isinstance(part, Judge)]
            others = [j for j in training_judges(trainer) if not models_of(j) & models_of(*own)]
            judge = others[0] if others else None
        before = self._outcomes[name].summary if name in self._outcomes else {}
        folder, first = folders_of(Path(trainer.default_root_dir), name, name in self._repeated)
        return Sitting(asked, offered, folder, before, from_validation, judge, first)

    def _drawn(self, images: Sequence[Tensor], batch: Sequence[ImageRequest]) -> list[Drawn]:
        """Encode the images of a validation batch; its requests are named by their prompts."""
        drawn = []
        for image, request in zip(images, batch, strict=True):
            prompt = self._held_out.get(request.request_id) or Prompt(request.request_id, request.prompt)
            self._asked[request.request_id] = (request, prompt)
            drawn.append(Drawn(request.request_id, prompt, encode_png(image)))
        return drawn

    def _finish_validation(self, trainer: pl.Trainer, module: pl.LightningModule, name: str, suite: Suite) -> None:
        error = self._errors.get(name, "")
        readings = joined_readings(self._readings.get(name, {}), error, f"{self._named(name)} of this validation")
        if not readings:
            return
        asked = from_all_ranks(self._asked)
        sitting = self._sitting(trainer, module, name, suite, asked, from_validation=True)
        outcome, error = tried(lambda: suite.figures(readings, sitting), forgives=_trains(trainer))
        if error:  # on all ranks alike: they have the same readings
            rank_zero_warn(f"{self._named(name)} of this validation is left out: its figures broke off: {error}")
        if outcome is None or not outcome.rows:
            return
        self._keep(name, outcome)
        self._validated_at[name] = self._step(trainer)
        for key, value in logged_of(name, outcome, name in self._repeated).items():
            if value is not None:
                module.log(key, torch.tensor(value), prog_bar=key == "accuracy/mean", rank_zero_only=True)

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule, name: str, strict: bool = False) -> None:
        """Draw for one suite, let it read, keep and log its figures."""
        suite, step = self.suites[name], self._step(trainer)
        if self._read_at.get(name) == step and not strict:
            return
        if is_smoke_test(trainer) or not isinstance(module, ImageGenerator):
            return
        if isinstance(suite, ReadsValidation):
            seen = self._validated_at.get(name) == step and suite.is_read_by_validation()
            if seen or (trainer.limit_val_batches == 0 and not strict):
                return
        self._read_at[name] = step
        offered = self._offered(trainer, module, suite)
        prompts = suite.prompts(offered)
        if not prompts:
            return
        if not all_sized(prompts, offered.size_px):
            said = unknown_size(type(module).__name__, self._named(name))
            rank_zero_warn(f"What validation read stays. {said}")
            return
        if isinstance(suite, AsksTeachers):
            refuse_nonfinite_weights(trainer, "They are not compared, and nothing is bought for that.")
        asked = suite.requests(offered)
        if not isinstance(suite, ChoosesFiles):
            asked = with_held_out_files(trainer, asked)
        images = draw_share(trainer, module, [request for request, _ in asked.values()])
        sitting = self._sitting(trainer, module, name, suite, asked, offered)
        if isinstance(suite, ReadsEmbeddings):
            own = {key: asked[key][0] for key in images}
            sitting = replace(sitting, embeddings=embedded_share(trainer, module, own))
        if isinstance(suite, ReadsEdits) and isinstance(module, MeasuresEdits):
            sitting = replace(sitting, errors_outside=from_all_ranks(dict(module.errors_outside)))
        outcome, error = outcome_of(suite, images, sitting)
        if error and strict:  # on all ranks alike: none waits for another
            raise RunError(f"{self._named(name)} broke off: {error}. Mend its reader, or leave the suite out.")
        if error:
            rank_zero_warn(f"{self._named(name)} is left out: the reader broke off: {error}")
        if outcome is not None:
            self._keep(name, outcome)
            log_figures(trainer, logged_of(name, outcome, name in self._repeated))
        elif not isinstance(suite, ReadsValidation):
            self._outcomes.pop(name, None)  # figures of an earlier step are no figures of this one

    def _keep(self, name: str, outcome: Outcome) -> None:
        self._outcomes[name] = outcome
        self._measured.add(name)

    def _named(self, name: str) -> str:
        return f"The suite {name} of {type(self).__name__}"


def _trains(trainer: pl.Trainer) -> bool:
    """Whether an error would cost a training; before its first step and in a validation alone it had better show."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
