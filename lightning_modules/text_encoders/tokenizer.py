"""The tokenizer of a frozen text encoder, and the encoder's two parts as a pipeline holds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision
from evolvedirector.lightning_modules.frozen_model import FrozenModel, Precision, load_from_transformers
from evolvedirector.lightning_modules.without_weights import layers_of_transformers

_MARKER = "tokenizer_config.json"


class Tokenizer:
    """Hold one tokenizer, loaded at first use.

    Args:
        component: Says where it lies.
        chats_of: The model that reads prompts in the tokenizer's chat template, for the error where it has none; None
            for one that reads them as they are.
    """

    def __init__(self, component: Component, chats_of: str | None = None) -> None:
        self.component, self.chats_of = component, chats_of
        self._loaded: Any = None

    def load(self) -> Any:
        """Return the tokenizer of transformers.

        Raises:
            UserError: It needs a chat template, and has none.
        """
        if self._loaded is None:
            from transformers import AutoTokenizer

            place = self.component
            loaded = AutoTokenizer.from_pretrained(place.name, revision=place.revision, subfolder=place.subfolder or "")
            if self.chats_of and not loaded.chat_template:
                raise self._no_template(self.chats_of)
            self._loaded = loaded
        return self._loaded

    def chats(self, texts: Sequence[str], thinking: bool) -> list[str]:
        """Put each text into the chat template as the turn of a user, up to where the model would answer.

        Args:
            texts: Prompts.
            thinking: Whether the model would think first.
        """
        return [
            self.load().apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=thinking,
            )
            for text in texts
        ]

    def verify(self) -> None:
        """Check that it is there, can be read here, and has the chat template that it needs.

        Raises:
            UserError: It is not, or it has not.
        """
        self.component.verify_tokenizer()
        folder = self.component.local_folder()
        if not self.chats_of or folder is None or (folder / "chat_template.jinja").is_file():
            return
        if "chat_template" not in json.loads((folder / _MARKER).read_text(encoding="utf-8")):
            raise self._no_template(self.chats_of)

    def _no_template(self, reader: str) -> UserError:
        return UserError(
            f"The tokenizer of {self.component.name!r} has no chat template, in which {reader} reads its prompts. "
            "Allowed is one with chat_template.jinja, or with chat_template in tokenizer_config.json. Take the "
            "tokenizer folder of the published pipeline, with its chat_template.jinja."
        )


def frozen_text_parts(
    kind: str,
    class_name: str,
    name: str,
    revision: str | None,
    dtype: Precision,
    subfolders: tuple[str | None, str | None],
    check: Callable[[Mapping[str, Any]], None],
    chats_of: str | None = None,
) -> tuple[FrozenModel, Tokenizer]:
    """Return model and tokenizer of a text encoder, neither loaded.

    Args:
        kind: What the model is called, for errors.
        class_name: Of transformers.
        name: Folder or repository.
        revision: Git revision of the repository; None only for a folder.
        dtype: Precision of the weights.
        subfolders: Those of model and tokenizer; None for none, and for a tokenizer beside its model.
        check: Raises where a config of the model is not as described.
        chats_of: See `Tokenizer`.

    Raises:
        UserError: A repository is named without revision.
    """
    needs_revision(f"{kind} encoder", name, revision)
    what, (subfolder, tokenizer_subfolder) = f"the {kind} text encoder", subfolders
    component = Component(what, name, revision, subfolder)
    model = FrozenModel(class_name, component, dtype, load_from_transformers, check, layers_of_transformers)
    return model, Tokenizer(Component(what, name, revision, tokenizer_subfolder or subfolder, _MARKER), chats_of)


def check_dimension(what: str, name: str, found: int, described: int, also: str = "") -> None:
    """Refuse a description that contradicts the weights.

    Args:
        what: Kind of encoder, as the error begins.
        name: Folder or repository.
        found: Dimension of its states.
        described: What the config says.
        also: What else is to be written.

    Raises:
        UserError: They differ.
    """
    if found != described:
        raise UserError(
            f"{what} {name!r} has dimension {found}, but dimension is {described}. Allowed is its own. "
            f"Write dimension: {found}{also}."
        )
