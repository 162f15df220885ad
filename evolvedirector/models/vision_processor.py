"""What turns a question and its pictures into a model's input: processors of the transformers library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import ModelSource
from evolvedirector.models.model_loading import place_of, readable_errors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PICTURE_PARTS = ("image_processor", "tokenizer")


def load_processor(source: ModelSource, revision: str | None, config: PreTrainedConfig) -> Any:
    """Load a model's processor, as far as pictures and text need it.

    Many processors (Qwen-VL, InternVL, SmolVLM) also have a part for videos, which asks for torchvision. No video is
    ever shown here, so they are put together without it.

    Args:
        source: Where the model comes from.
        revision: Branch, tag or commit on the hub; None is its main branch.
        config: Of the model.

    Raises:
        UserError: If there is none, or it takes no pictures.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    place = place_of(source)
    settings: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with readable_errors(source.model):
        known: Any = PROCESSOR_MAPPING.get(type(config), None)
        parts = known.get_attributes() if known is not None else []
        if "video_processor" in parts and set(_PICTURE_PARTS) <= set(parts):
            loaded = {
                "image_processor": AutoImageProcessor.from_pretrained(place, backend="pil", **settings),
                "tokenizer": AutoTokenizer.from_pretrained(place, **settings),
            }
            stored, _ = known.get_processor_dict(place, revision=revision)
            processor = _without_videos(known).from_args_and_dict([loaded.get(part) for part in parts], stored)
        else:
            processor = AutoProcessor.from_pretrained(place, **settings)
    if not all(hasattr(processor, part) for part in _PICTURE_PARTS):
        raise UserError(
            f"The model {source.model!r} has a {type(processor).__name__}, which takes no pictures with text. Allowed "
            "are models with image input, such as LLaVA or Qwen-VL. Write another, or save its processor beside it."
        )
    give_padding(processor.tokenizer)
    return processor


def give_padding(tokenizer: Any) -> None:
    """Give a tokenizer without a sign for padding one: models that were never trained in batches name none.

    Args:
        tokenizer: Of the model; padded places are masked, so any sign will do.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token


def _without_videos(processor_class: type) -> Any:
    """Derive a processor class that may lack a part: the library's own insists on each being there."""

    def check_argument_for_proper_class(self: Any, name: str, argument: Any) -> Any:
        return None if argument is None else processor_class.check_argument_for_proper_class(self, name, argument)  # type: ignore[attr-defined]

    lenient = {"check_argument_for_proper_class": check_argument_for_proper_class}
    return type(processor_class.__name__, (processor_class,), lenient)


def special_texts(tokenizer: Any) -> list[str]:
    """Return the texts that a tokenizer would read as signs of its own, such as the turns of a chat, longest first.

    Args:
        tokenizer: Of the model.
    """
    added = tokenizer.added_tokens_decoder.values()
    return _longest_first(token.content for token in added if token.special or token.content.startswith(("<", "[")))


def control_tokens(processor: Any) -> list[str]:
    """Return the texts that a processor would read as signs of its own, the places of pictures among them.

    Args:
        processor: Of the model.
    """
    signs = [getattr(processor, name, None) for name in ("image_token", "boi_token", "video_token")]
    return _longest_first([*special_texts(processor.tokenizer), *(sign for sign in signs if isinstance(sign, str))])


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted({text for text in texts if text.strip()}, key=lambda text: (-len(text), text))


def without_control_tokens(text: str, tokens: Iterable[str]) -> str:
    """Take a tokenizer's own signs out of a text of others, so that it can neither end a turn nor fake a picture.

    Args:
        text: A question with a quoted prompt.
        tokens: What may not be in it, longest first.
    """
    for token in tokens:
        text = text.replace(token, " ")  # a space: what is left and right of it must not join to another
    return text


def question_text(processor: Any, text: str, pictures: int) -> str:
    """Write one user turn: the pictures in their order, then the question.

    By the processor's chat template; without one, its sign for a picture, then the question as plain text.

    Args:
        processor: Of the model.
        text: The question, without control tokens.
        pictures: How many.

    Raises:
        UserError: If neither a chat template nor a sign for pictures is known.
    """
    template = getattr(processor, "chat_template", None)
    if template is not None:
        content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
        # A model that thinks aloud first would say neither yes nor no.
        thinking = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        turn = [{"role": "user", "content": content}]
        return processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, **thinking)
    sign = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None)
    if not isinstance(sign, str):
        raise UserError(
            f"The {type(processor).__name__} has neither a chat template nor a sign that stands for a picture. Allowed "
            "is one of them. Save a chat_template.jinja beside the model, or write another model."
        )
    return f"{sign * pictures}\n{text}\nAnswer:"


def inputs_of(processor: Any, texts: Sequence[str], pictures: Sequence[Sequence[Any]]) -> Any:
    """Make a model's input from questions as `question_text` writes them.

    Padded on the right: the last real token of each question is where its answer is read, and under causal attention
    nothing behind a token can change what is computed at it, whatever the kind of position encoding. Padding on the
    left shifts the positions of models that count them from the start.

    Args:
        processor: Of the model.
        texts: One per question.
        pictures: Likewise; equally many for each.
    """
    bos = processor.tokenizer.bos_token
    inputs = processor(
        text=list(texts),
        images=[list(shown) for shown in pictures],
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=not (bos and texts[0].startswith(bos)),  # a template may have written it already
    )
    inputs.pop("labels", None)
    return inputs
