"""A loaded language model: instructions in, written texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import load_config, load_model, place_of, readable_errors
from evolvedirector.models.seeded_sampling import SeededSampling
from evolvedirector.models.vision_processor import give_padding, special_texts, without_control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote, and why nothing of it may be read (empty: it may)."""

    text: str
    problem: str = ""
    answered: bool = True
    """False where the model could not be asked: a later try may succeed."""


class InstructionReader:
    """Turn instructions into a model's input; needs no weights.

    Args:
        source: Where the model comes from.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        UserError: If the model does not write text, or its tokenizer cannot be loaded.
    """

    def __init__(self, source: ModelSource, revision: str | None) -> None:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer

        self.config: PreTrainedConfig = load_config(source, revision)
        if type(self.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(
                f"The model {source.model!r} (type {self.config.model_type!r}) cannot write prompts. Allowed are "
                "models that continue text, such as Qwen3, Llama or Mistral. Write the name or folder of one."
            )
        with readable_errors(source.model):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                place_of(source), revision=revision, trust_remote_code=False
            )
        give_padding(self.tokenizer)
        self._special = special_texts(self.tokenizer)

    def text(self, instruction: str) -> str:
        """Write one user turn by the tokenizer's chat template; without one, the instruction as plain text.

        Args:
            instruction: What to do; signs of the tokenizer are taken out of it.
        """
        plain = without_control_tokens(instruction, self._special)
        template = self.tokenizer.chat_template
        if template is None:
            return f"{plain}\n\nReply:\n"
        # Thoughts before the list cost tokens and are thrown away.
        thinking = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        turn = [{"role": "user", "content": plain}]
        return self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, **thinking)

    def inputs(self, texts: Sequence[str]) -> Any:
        """Make a batch of input, padded on the left: what is written follows each text directly.

        Args:
            texts: As `text` writes them.
        """
        bos = self.tokenizer.bos_token
        return self.tokenizer(
            list(texts),
            return_tensors="pt",
            padding=True,
            padding_side="left",
            return_token_type_ids=False,
            add_special_tokens=not (bos and texts[0].startswith(bos)),  # a template may have written it already
        )

    def context_tokens(self) -> int | None:
        """Return how many tokens the model can hold; None where it does not say."""
        text_config = self.config.get_text_config()
        found = getattr(text_config, "max_position_embeddings", None)
        return found if isinstance(found, int) else None


class TextModel:
    """Hold a model in memory and let it write.

    Args:
        source: Where the model comes from.
        settings: How its weights are held, and where.

    Raises:
        ValueError: If the model cannot be loaded, does not write text, or does not fit the device.
    """

    def __init__(self, source: ModelSource, settings: ModelSettings) -> None:
        from transformers import AutoModelForCausalLM

        self.reader = InstructionReader(source, settings.revision)
        self.model: Any = load_model(AutoModelForCausalLM.from_pretrained, source, settings)

    def write(
        self, instructions: Sequence[str], seeds: Sequence[int], max_new_tokens: int, temperature: float, top_p: float
    ) -> list[Written]:
        """Let the model reply to each instruction, each sampled from a seed of its own.

        Args:
            instructions: One per reply.
            seeds: Likewise.
            max_new_tokens: Longest reply.
            temperature: Of the sampling; 0 takes the likeliest token.
            top_p: Probability that the kept tokens have at least.
        """
        texts = [self.reader.text(instruction) for instruction in instructions]
        inputs = self.reader.inputs(texts)
        lengths, room = inputs["attention_mask"].sum(dim=1).tolist(), self.reader.context_tokens()
        fits = [place for place, length in enumerate(lengths) if room is None or length + max_new_tokens <= room]
        written = [
            Written("", f"an instruction of {length} tokens leaves no room for {max_new_tokens} more in {room}")
            for length in lengths
        ]
        if fits:
            inputs = self.reader.inputs([texts[place] for place in fits])
            replies = self._generate(inputs, [seeds[place] for place in fits], max_new_tokens, temperature, top_p)
            for place, reply in zip(fits, replies, strict=True):
                written[place] = reply
        return written

    def _generate(
        self, inputs: Any, seeds: Sequence[int], max_new_tokens: int, temperature: float, top_p: float
    ) -> list[Written]:
        from transformers import GenerationConfig, LogitsProcessorList

        tokenizer, own = self.reader.tokenizer, self.model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=ends
        )
        sampling = LogitsProcessorList([SeededSampling(seeds, temperature, top_p)])
        with torch.no_grad():
            ids = self.model.generate(
                **inputs.to(self.model.device), generation_config=settings, logits_processor=sampling
            )[:, inputs["input_ids"].shape[1] :]
        stops = {ends} if isinstance(ends, int) else set(ends or ())
        replies = []
        for row in ids.tolist():
            end = next((place for place, token in enumerate(row) if token in stops), None)
            text = tokenizer.decode(row[:end], skip_special_tokens=True)
            replies.append(Written(text, "" if end is not None else "cut off; raise max_new_tokens"))
        return replies
