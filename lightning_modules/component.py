"""A pretrained component of a folder or repository: is it there, whole and readable, before anything is paid for?"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.records import digest

_SAMPLES, _SAMPLE_BYTES = 64, 2**16
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_HUB_TIMEOUT_S = 10
_SPIECE_NEEDS = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
_SPIECE_FILES = {"spiece.model", "sentencepiece.model", "tokenizer.model"}


def needs_revision(what: str, name: str, revision: str | None) -> None:
    """Refuse a repository without revision.

    Args:
        what: Kind of component, as the error begins.
        name: Folder or repository.
        revision: Its git revision.

    Raises:
        UserError: It has none and is no folder here.
    """
    if Path(name).is_dir():
        return
    if name.startswith((".", "~", "/")) or name.count("/") > 1:  # no name of a hub
        raise UserError(
            f"{what} is the folder {name!r}, which is not there. Allowed is a folder, or a repository of the hub with "
            "its revision. Make it first: the head of the recipe that reads it names the command that does (its "
            "`make` word, say); or correct the path."
        )
    if revision is None:
        raise UserError(
            f"{what} {name!r} is no folder here and has no revision. A repository needs one, so that a run can be "
            "repeated. Write revision: <git hash>, or the path of a folder."
        )


def refuse_missing(what: str, name: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that lack some of a model's: the loaders would fill them with random numbers, and only warn.

    Args:
        what: Who was loaded, as in `Component`.
        name: Folder or repository.
        report: What the loader returns for `output_loading_info=True`.

    Raises:
        UserError: Names the first missing ones.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(
            f"The weights of {what} in {name!r} lack {shown}. All must be there: the rest would be random. Download or "
            "convert them again, or name the folder or repository of another version."
        )


@dataclass(frozen=True)
class Component:
    """Name one model or tokenizer of a folder or repository, say the text encoder of a diffusers pipeline.

    Args:
        what: Who it is, for errors: `the autoencoder`.
        name: Folder or repository.
        revision: Git revision of the repository; None for a folder.
        subfolder: Folder inside it; None for none.
        marker: A file that it always has.
    """

    what: str
    name: str
    revision: str | None = None
    subfolder: str | None = None
    marker: str = "config.json"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine."""
        return Path(self.name).is_dir()

    def content_digest(self) -> str:
        """Return a dash and a digest of the weights of a folder; nothing for a repository, which its revision names."""
        return self._content_digest if self.is_folder else ""

    @cached_property
    def _content_digest(self) -> str:
        folder = Path(self.name) / (self.subfolder or "")
        return "-" + digest(*[part for path in _loaded_files(folder) for part in _samples(path)], length=12)

    def local_folder(self) -> Path | None:
        """Return where it lies on this machine: the folder itself, or the hub's local copy; None: not downloaded."""
        if self.is_folder:
            return Path(self.name) / (self.subfolder or "")
        from huggingface_hub import try_to_load_from_cache

        file = f"{self.subfolder}/{self.marker}" if self.subfolder else self.marker
        found = try_to_load_from_cache(self.name, file, revision=self.revision)
        return Path(found).parent if isinstance(found, str) else None

    def verify_weights(self) -> None:
        """Check that weights are there, as safetensors and in one piece; reads names, not weights.

        Raises:
            UserError: They are not.
        """
        names = self._file_names(lambda names: any(name.endswith(".safetensors") for name in names))
        if not any(name.endswith(".safetensors") for name in names):
            has = "only .bin files" if any(name.endswith(".bin") for name in names) else "no weights"
            raise UserError(
                f"{self._place} of {self.what} has {has}. Allowed are safetensors, which cannot run code when they are "
                "loaded. Name a repository that has them, or convert it once: load it with transformers and write it "
                "with save_pretrained(FOLDER), then name that folder."
            )
        folder = self.local_folder()
        for index in () if folder is None else folder.glob("*.safetensors.index.json"):
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if lacking := sorted(shards - names):
                raise UserError(
                    f"{self._place} of {self.what} lacks {lacking[0]}, which its index names. All shards must be there."
                    " Download or copy the folder again."
                )

    def verify_tokenizer(self) -> None:
        """Check that a tokenizer is there, and that this installation can read it.

        Raises:
            UserError: It is not, or it cannot.
        """

        def ready(names: set[str]) -> bool:
            return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names

        names = self._file_names(lambda names: ready(names) or bool(names & _SPIECE_FILES))
        if ready(names):
            return
        if not names & _SPIECE_FILES:
            raise UserError(
                f"{self._place} of {self.what} has no tokenizer. Allowed is one with tokenizer.json, spiece.model or "
                "vocab.json and merges.txt. Write tokenizer_subfolder: the folder that holds it."
            )
        if lacking := [name for name, module in _SPIECE_NEEDS.items() if not _is_installed(module)]:
            raise UserError(
                f"{self._place} of {self.what} has a SentencePiece tokenizer, which needs {' and '.join(lacking)}. "
                "Only tokenizer.json can be read without. "
                f"Run: pip install {' '.join(lacking)}"
            )

    def config(self) -> dict[str, Any] | None:
        """Return its config where it lies on this machine; None before the download."""
        folder = self.local_folder()
        if folder is None or not (folder / self.marker).is_file():
            return None
        found: dict[str, Any] = json.loads((folder / self.marker).read_text(encoding="utf-8"))
        return found

    def weight_bytes(self, dtype: str) -> int:
        """Sum the weights from the headers of their files, in the precision in which they are loaded.

        Args:
            dtype: `float32`, `bfloat16` or `float16`.

        Returns:
            Bytes; 0 where the files are not here.
        """
        folder = self.local_folder()
        if folder is None:
            return 0
        from safetensors import safe_open

        values = 0
        for path in _loaded_files(folder):
            with safe_open(path, framework="np") as file:
                values += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        return values * _BYTES[dtype]

    @property
    def _place(self) -> str:
        inside = f", subfolder {self.subfolder!r}," if self.subfolder else ""
        return f"The {'folder' if self.is_folder else 'repository'} {self.name!r}{inside}"

    def _file_names(self, is_whole: Callable[[set[str]], bool]) -> set[str]:
        """List the files of the folder, of a local copy that is whole, or what the hub says that it would send."""
        folder = self.local_folder()
        names = {path.name for path in folder.iterdir()} if folder is not None and folder.is_dir() else set()
        if self.is_folder and self.marker not in names:
            raise UserError(
                f"{self._place} of {self.what} has no {self.marker}. Allowed is a folder that save_pretrained wrote. "
                "Correct the path or the subfolder."
            )
        return names if self.is_folder or is_whole(names) else self._names_on_hub()

    def _names_on_hub(self) -> set[str]:
        from huggingface_hub import HfApi

        try:
            listed = HfApi().model_info(self.name, revision=self.revision, timeout=_HUB_TIMEOUT_S).siblings or []
        except Exception as error:  # a wrong name, a licence not accepted and a hub that is away: many exceptions
            raise UserError(
                f"{self._place} of {self.what} (revision {self.revision}) is neither on this machine nor can the hub be"
                f" asked for it ({type(error).__name__}). Allowed is a folder, a local copy, or a repository that the "
                "hub shows to you. Correct name and revision, accept its licence on the hub, or download it first."
            ) from error
        prefix = f"{self.subfolder}/" if self.subfolder else ""
        names = {file.rfilename.removeprefix(prefix) for file in listed if file.rfilename.startswith(prefix)}
        return {name for name in names if "/" not in name}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


def _loaded_files(folder: Path) -> list[Path]:
    """Return the files that are loaded: those of the index, else the plain ones; never `fp16` twins beside them."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if "." not in index.name.removesuffix(".safetensors.index.json"):
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return [folder / name for name in sorted(names) if Path(name).name == name and (folder / name).is_file()]
    plain = [folder / f"{stem}.safetensors" for stem in ("model", "diffusion_pytorch_model")]
    return [path for path in plain if path.is_file()]


def _samples(path: Path) -> Iterator[bytes | int]:
    """Yield size and 64 samples spread over a file: other weights differ nearly everywhere."""
    size = path.stat().st_size
    yield size
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(number * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)
