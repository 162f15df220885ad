"""What experts come to: every arm draws the same held-out prompts, every evaluator scores them, one table."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image

from evolvedirector.callbacks._run.arms import Arm, arms_of
from evolvedirector.callbacks._run.drawing import draw_share
from evolvedirector.callbacks._run.held_out import (
    evolution_plans,
    held_out_prompts,
    size_to_draw_px,
    training_ends,
)
from evolvedirector.callbacks._run.host_checks import is_smoke_test
from evolvedirector.callbacks._run.suite_reading import read_by_ranks
from evolvedirector.callbacks.expert_stages import ExpertStages
from evolvedirector.errors import RunError, UserError
from evolvedirector.evaluation.arm_table import (
    ArmRecord,
    ArmTable,
    UnreadableTable,
    picture_path,
    read_table,
    write_table,
)
from evolvedirector.evaluation.prompt_choice import (
    all_sized,
    prompts_of,
    requests_to_draw,
    spread_over_skills,
    unknown_size,
)
from evolvedirector.evaluation.scored import scores_of
from evolvedirector.evaluation.suite import Asked
from evolvedirector.evolution import ImageGenerator
from evolvedirector.evolution.round_id import RoundSettings
from evolvedirector.execution.ranks import from_all_ranks, on_rank_zero, own_rank
from evolvedirector.experts.gate_weights import MeanWeights
from evolvedirector.experts.host import HoldsExperts
from evolvedirector.planning.roles import PlannedRun
from evolvedirector.planning.spending import Reader
from evolvedirector.policies.best_of_n import BestOfN
from evolvedirector.records import ImageAndPrompt, Prompt, digest
from evolvedirector.records.part import Part, requests_in_flight_of, verify_parts
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.rewards.reward import Reward

PICTURE_SIDE_PX = 256
"""Of the kept pictures, at most."""


class ExpertTable(pl.Callback):
    """Compare base, experts, joint LoRA, merges and gate on the same prompts and noise, by evaluators that never chose.

    When training ends, each arm draws the held-out prompts and every evaluator scores the images. Arms are the files
    in `<default_root_dir>/experts/`, which ExpertStages and `evolvedirector merge` write, beside the base and the gate
    of the run. Scores and a few pictures of an arm are kept in `experts/table.json` as soon as it is finished: a run
    that is killed draws and scores no finished arm again, unless its weights, the prompts or the evaluators changed.
    The report shows the table; `summary.json` names the worst aspect of each arm. `evolvedirector validate` draws what
    is missing of a run that is over, such as a merge that was made later.

    An evaluator is named as the expert that is meant for it: the expert `sharpness` for the evaluator `sharpness`.
    Put it behind ExpertStages.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.ExpertTable
          init_args:
            evaluators:
              aesthetic: {class_path: evolvedirector.rewards.AestheticScore}
              preference: {class_path: evolvedirector.rewards.PickScore}
            images_per_prompt: 2
        ```
    """

    def __init__(
        self,
        evaluators: dict[str, Reward],
        prompts: PromptSource | str | Path | None = None,
        images_per_prompt: int = 1,
        max_prompts: int | None = None,
        by_skill: bool = False,
        shown_prompts: int = 6,
        seed: int = 0,
    ) -> None:
        """Set who scores what.

        Args:
            evaluators: Score images; by the name of their column. None of them selects training data.
            prompts: A prompt file or a source. None: the datamodule's held-out prompts.
            images_per_prompt: Seeds of each prompt.
            max_prompts: Prompts at most, spread over skills. None: all.
            by_skill: Whether the columns are skills, as in SELMA's table; of several evaluators each skill has a column
                for each. False: a column is an evaluator, as in VersaT2I's.
            shown_prompts: Prompts whose pictures are kept for the report, one of each arm.
            seed: Root of the choice of prompts and of the seeds.

        Raises:
            UserError: No evaluator, or a number below 1.
        """
        super().__init__()
        if not evaluators:
            raise UserError(
                "evaluators is empty. Allowed: at least one. Write `evaluators: {clip_score: {class_path: "
                "evolvedirector.rewards.CLIPScore, init_args: {model: openai/clip-vit-large-patch14}}}`, say."
            )
        for name, value in (
            ("images_per_prompt", images_per_prompt),
            ("max_prompts", max_prompts),
            ("shown_prompts", shown_prompts),
        ):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}. Allowed: 1 or more. Write `{name}: 4`, say.")
        self.evaluators = evaluators
        self.source = prompts
        self.images_per_prompt = images_per_prompt
        self.max_prompts = max_prompts
        self.by_skill = by_skill
        self.shown_prompts = shown_prompts
        self.seed = seed
        self._table: ArmTable | None = None
        self._made_at: int | None = None  # global step of the last table, or attempt

    # ---- before anything is bought

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what no table could be made of, and evaluators that choose training data.

        Raises:
            RunError: The module cannot draw with experts, or the size of the images is unknown.
            UserError: There are no prompts, an evaluator selects, or its weights are missing.
        """
        if stage not in ("fit", "validate"):
            return
        if not (isinstance(pl_module, HoldsExperts) and isinstance(pl_module, ImageGenerator)):
            raise RunError(
                f"{type(pl_module).__name__} cannot draw with experts: ExpertTable needs its `generate`, `trained` and "
                "`experts()`. Add them, or use evolvedirector.lightning_modules.TextToImage."
            )
        self._refuse_order(trainer)
        verify_parts(*self.evaluators.values())
        for reward in self.evaluators.values():
            _ = reward.fingerprint  # one whose weights are missing says so now, not when everything is trained
        self._refuse_selecting(trainer)
        prompts = self._prompts(trainer)
        if not prompts:
            raise UserError(
                "ExpertTable has no prompts: the datamodule holds none out. Allowed is at least one. Write `prompts: "
                "held_out.txt`, say, with prompts that no expert is trained on."
            )
        if not all_sized(prompts, size_to_draw_px(trainer, pl_module)):
            raise RunError(unknown_size(type(pl_module).__name__, type(self).__name__))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ExpertStages) and callback.validation is not None:
                callback.validation.refuse_measured(prompts, self.evaluators)

    def parts(self) -> dict[str, Part]:
        """Name the evaluators, for those who verify and size."""
        return {f"evaluators.{name}": reward for name, reward in self.evaluators.items()}

    def planned_drawings(self, run: PlannedRun) -> int | None:
        """Count the images of all arms: of the base, each expert, each merge and the gate.

        Args:
            run: Says how many arms there are.
        """
        if run.arms is None:
            return None
        if self.source is None:
            prompts = run.held_out_prompts if self.max_prompts is None else min(run.held_out_prompts, self.max_prompts)
        else:
            prompts = len(prompts_of(self.source, (), self.max_prompts, self.seed))
        return run.arms * prompts * self.images_per_prompt

    def planned_looks(self, run: PlannedRun) -> list[Reader]:
        """Count what each evaluator scores: every image once.

        Args:
            run: Says how many arms there are.
        """
        images = self.planned_drawings(run)
        return [Reader(f"ExpertTable.evaluators.{name}", reward, images) for name, reward in self.evaluators.items()]

    def plan_summary(self) -> dict[str, str]:
        """Say what is drawn, for `evolvedirector check`."""
        return {"expert table": f"{self.images_per_prompt} images of each held-out prompt for every arm"}

    # ---- when

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the table in the last epoch, before its checkpoint: a run that is killed here goes on here."""
        if training_ends(trainer):
            self._make(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the table if training ended elsewhere than at the end of an epoch."""
        if self._made_at != trainer.global_step:
            self._make(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the table of a run that is over, where nothing is trained."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._make(trainer, pl_module, strict=True)

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`: of each arm, the worst aspect with t and effect size."""
        if self._table is None:
            return {}
        entries = {}
        for name, figures in self._table.figures().items():
            if figures.worst is not None:
                worst = figures.differences[figures.worst]
                entries[name] = {
                    "worst_aspect": figures.worst,
                    "t": worst.t,
                    "effect": worst.effect,
                    "nowhere_below_base": figures.is_nowhere_below,
                }
        return {"experts": entries}

    # ---- how

    def _prompts(self, trainer: pl.Trainer) -> list[Prompt]:
        return prompts_of(self.source, held_out_prompts(trainer), self.max_prompts, self.seed)

    def _refuse_order(self, trainer: pl.Trainer) -> None:
        """Experts must be written by the time they are drawn with: hooks are called in the order of the list."""
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        later = callbacks[callbacks.index(self) :]
        if any(isinstance(callback, ExpertStages) for callback in later):
            raise UserError(
                "ExpertTable stands before ExpertStages under trainer.callbacks, so its experts would not be written "
                "yet. Allowed is the other order. Put ExpertTable behind ExpertStages."
            )

    def _refuse_selecting(self, trainer: pl.Trainer) -> None:
        for plan in evolution_plans(trainer.callbacks):  # type: ignore[attr-defined]
            selecting = selecting_rewards(plan.settings)
            for name, evaluator in self.evaluators.items():
                chosen_by = next(
                    (key for key, one in selecting.items() if one.fingerprint == evaluator.fingerprint), ""
                )
                if chosen_by:
                    raise UserError(
                        f"evaluators.{name} is the reward {chosen_by!r}, which selects the training data "
                        f"({evaluator.fingerprint}). A reward that selects is never the evaluator, the config says "
                        "both: images chosen by a score have that score. Write another class_path, or another model, "
                        f"for evaluators.{name}."
                    )

    def _make(self, trainer: pl.Trainer, module: pl.LightningModule, strict: bool = False) -> None:
        """Draw and score the arms that are not finished, and keep each as soon as it is."""
        if is_smoke_test(trainer):
            return
        assert isinstance(module, HoldsExperts), "setup made sure of it"
        self._made_at = trainer.global_step
        size_px = size_to_draw_px(trainer, module)
        asked = requests_to_draw(self._prompts(trainer), self.images_per_prompt, self.seed, size_px, "experts")
        run_folder = Path(trainer.default_root_dir)
        earlier = on_rank_zero(lambda: _earlier_table(run_folder))
        table = ArmTable(
            {name: reward.fingerprint for name, reward in self.evaluators.items()},
            {prompt.id: prompt for _, prompt in asked.values()},
            {key: prompt.id for key, (_, prompt) in asked.items()},
            self.by_skill,
        )
        experts = module.experts()
        for arm in arms_of(run_folder, experts.network, experts.base_digest):
            key = self._key(arm, asked)
            finished = None if earlier is None else earlier.arms.get(arm.name)
            if earlier is not None and finished is not None and finished.key == key:
                table.arms[arm.name] = finished
                if arm.kind == "gate":
                    table.gates = earlier.gates
                continue
            error = self._finish(trainer, module, table, arm, key, asked)
            if error and strict:
                raise RunError(f"ExpertTable broke off at the arm {arm.name}: {error}. Mend the evaluator.")
            if error:
                rank_zero_warn(f"ExpertTable is left unfinished at the arm {arm.name}: an evaluator broke off: {error}")
                break
            on_rank_zero(lambda: write_table(run_folder, table))
        else:
            on_rank_zero(lambda: write_table(run_folder, table))
        self._table = table if table.arms else None

    def _key(self, arm: Arm, asked: Asked) -> str:
        evaluators = [part for name in sorted(self.evaluators) for part in (name, self.evaluators[name].fingerprint)]
        drawn = [
            part
            for key, (request, prompt) in asked.items()
            for part in (key, prompt.text, request.seed, request.width_px, request.height_px)
        ]
        return digest(arm.kind, arm.weights, self.shown_prompts, *evaluators, *drawn)

    def _finish(
        self, trainer: pl.Trainer, module: pl.LightningModule, table: ArmTable, arm: Arm, key: str, asked: Asked
    ) -> str:
        """Draw and score one arm and put it into the table; returns why an evaluator broke off."""
        with arm.works() as chosen:
            images = draw_share(trainer, module, [request for request, _ in asked.values()], averaged=False)

        def read(of: Mapping[str, bytes]) -> dict[str, dict[str, float | None]]:
            items = [ImageAndPrompt(key, of[key], asked[key][1].text) for key in asked if key in of]
            return scores_of(self.evaluators, items)

        alone = requests_in_flight_of(*self.evaluators.values()) > 0
        found, error = read_by_ranks(read, images, alone)
        if error:
            return error
        shown = self._shown(asked)
        kept = from_all_ranks({key: image for key, image in images.items() if key in shown})
        pictures = on_rank_zero(lambda: _keep_pictures(Path(trainer.default_root_dir), kept))
        scores = {name: {image: found[image][name] for image in asked} for name in self.evaluators}
        table.arms[arm.name] = ArmRecord(arm.kind, key, scores, {key: pictures[key] for key in shown}, arm.about)
        if isinstance(chosen, MeanWeights):
            table.gates = _over_ranks(chosen).by_layer()
        return ""

    def _shown(self, asked: Asked) -> list[str]:
        """Name the first image of some prompts, spread over skills."""
        first: dict[str, str] = {}
        for key, (_, prompt) in asked.items():
            first.setdefault(prompt.id, key)
        prompts = [prompt for prompt in {prompt.id: prompt for _, prompt in asked.values()}.values()]
        return [first[prompt.id] for prompt in spread_over_skills(prompts, self.shown_prompts, self.seed)]


def selecting_rewards(settings: RoundSettings) -> dict[str, Reward]:
    """Return the rewards that choose training data, by name: those of the aspects of `BestOfN`.

    Of a policy that does not say which it uses, all that take part count.

    Args:
        settings: Of the rounds.
    """
    if not isinstance(settings.policy, BestOfN):
        return dict(settings.rewards)
    used = {aspect.reward for aspect in settings.policy.aspects.values()}
    return {name: reward for name, reward in settings.rewards.items() if name in used}


def _earlier_table(run_folder: Path) -> ArmTable | None:
    try:
        return read_table(run_folder)
    except UnreadableTable as error:
        rank_zero_warn(f"{error} All arms are drawn and scored anew.")
        return None


def _keep_pictures(run_folder: Path, images: Mapping[str, bytes]) -> dict[str, str]:
    """Write small pictures under the names of their content; returns these by key."""
    names = {}
    for key, image in images.items():
        picture = Image.open(io.BytesIO(image))
        picture.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        names[key] = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = picture_path(run_folder, names[key])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return names


def _over_ranks(means: MeanWeights) -> MeanWeights:
    """Add up what the gates chose on every rank."""
    whole = MeanWeights(means.experts)
    for sums, counts in from_all_ranks({own_rank(): (means.sums, means.counts)}).values():
        for layer, total in sums.items():
            whole.sums[layer] = whole.sums.get(layer, 0) + total
            whole.counts[layer] = whole.counts.get(layer, 0) + counts[layer]
    return whole
