"""Models of the hub that lie on this machine are found by their names there."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import find_model
from evolvedirector.store.paths import folder_or_hub_name, local_model
from evolvedirector.teachers.local.pipeline_loading import find_pipeline


def test_a_folder_of_models_stands_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "models" / "owner" / "model-1.5"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert local_model("owner/model-1.5") is None and folder_or_hub_name("owner/model-1.5") == "owner/model-1.5"
    monkeypatch.setenv("EVOLVEDIRECTOR_MODELS", "models")
    assert folder_or_hub_name("owner/model-1.5") == str(Path("models/owner/model-1.5"))
    assert find_model("owner/model-1.5", "a-revision").folder == find_pipeline("owner/model-1.5", None).folder
    assert folder_or_hub_name("owner/other") == "owner/other"  # not there: the hub is asked
    for path in ("/owner/model-1.5", "../models/owner", "owner/../owner", "./owner", "model-1.5", "a/owner/model-1.5"):
        assert local_model(path) is None
    (tmp_path / "owner" / "model-1.5").mkdir(parents=True)
    assert local_model("owner/model-1.5") is None  # a folder here has its own name
    monkeypatch.setenv("EVOLVEDIRECTOR_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"which is no folder.*unset EVOLVEDIRECTOR_MODELS"):
        local_model("owner/other")
