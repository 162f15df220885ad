"""The network of ECLIPSE: the published size, the released names, and what stock classes make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PriorTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import DiffusionPriorObjective, PriorNetwork
from evolvedirector.lightning_modules.priors.prior_transformer import EclipsePrior
from tests.lightning_modules.priors.prior_toys import prior

TINY: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 12, "num_embeddings": 7,
}  # fmt: skip


def awake(network: Any) -> Any:
    """Give every weight a random value: some begin as zeros."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return network.eval()


def inputs(batch: int = 3, tokens: int = 7, dim: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[:, 4:] = False
    return {
        "noise": torch.randn(batch, dim, generator=generator),
        "text_embedding": torch.randn(batch, dim, generator=generator),
        "text_states": torch.randn(batch, tokens, dim, generator=generator),
        "text_mask": mask,
    }


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({}, 33_143_040), ({"embedding_dim": 1280}, 34_193_152),
     ({"embedding_dim": 1280, "reads_edges": True}, 34_849_536)],
)  # fmt: skip
def test_it_has_the_published_size(changes: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(part.numel() for part in EclipsePrior(**changes).parameters()) == parameters


def test_released_names_fit() -> None:
    with torch.device("meta"):
        released = PriorTransformer(16, 32, 10, 1280, additional_embeddings=3).state_dict()
        own = EclipsePrior(embedding_dim=1280).state_dict()
    without_time = {name: part.shape for name, part in released.items() if not name.startswith("time_embedding.")}
    assert {name: part.shape for name, part in own.items()} == without_time and len(own) < len(released)


def test_with_a_time_embedding_it_computes_what_the_stock_class_does() -> None:
    stock = awake(PriorTransformer(**TINY))
    own = EclipsePrior(**TINY, reads_time=True)
    own.load_state_dict(stock.state_dict())
    given, times = inputs(), torch.tensor([0.0, 500.0, 999.0])
    expected = stock(
        given["noise"], times, given["text_embedding"], given["text_states"], given["text_mask"]
    ).predicted_image_embedding
    assert torch.equal(own(**given, timestep=times), expected)


def test_padding_changes_nothing() -> None:
    network, given = awake(EclipsePrior(**TINY)), inputs()
    found = network(**given)
    louder = given["text_states"].clone()
    louder[:, 4:] += 1000
    assert torch.equal(network(**given | {"text_states": louder}), found)
    short = {"text_states": given["text_states"][:, :4], "text_mask": given["text_mask"][:, :4]}
    assert torch.equal(network(**given | short), found)
    torch.testing.assert_close(network(**given | short, pads=False), found)
    heard = given["text_states"].clone()
    heard[:, 3] += 1
    assert not torch.equal(network(**given | {"text_states": heard}), found)


def test_edges_and_text_states_of_another_width_are_read() -> None:
    network = awake(EclipsePrior(**TINY, reads_edges=True, text_dim=5))
    given = inputs() | {"text_states": torch.ones(3, 7, 5)}
    one, other = (network(**given, edge_embedding=torch.full((3, 12), value)) for value in (0.0, 1.0))
    assert one.shape == (3, 12) and not torch.equal(one, other)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        network = awake(EclipsePrior(**TINY)).train()
        if checkpointed:
            network.enable_gradient_checkpointing()
        network(**inputs()).square().sum().backward()
        gradients.append({name: part.grad for name, part in network.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is None if name.startswith("clip_") else torch.equal(gradient, gradients[1][name])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"text_mask": None}, "text_mask is None"),
     ({"noise": torch.zeros(3, 5)}, "have the widths (5, 12, 12), but this prior reads (12, 12, 12)"),
     ({"text_states": torch.zeros(3, 8, 12)}, "A text has 8 tokens, but this prior reads 7"),
     ({"timestep": torch.zeros(3)}, "timestep is given, but this prior has reads_time: false"),
     ({"edge_embedding": torch.zeros(3, 12)}, "edge_embedding is given")],
)  # fmt: skip
def test_what_it_cannot_read_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        EclipsePrior(**TINY)(**inputs() | changes)
    assert said in str(error.value)


def test_a_saved_prior_loads_again_and_the_stock_class_refuses_it(tmp_path: Path) -> None:
    network = awake(EclipsePrior(**TINY))
    network.save_pretrained(tmp_path)
    again = EclipsePrior.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs()), network(**inputs()))
    assert not again.clip_mean.requires_grad and not again.clip_std.requires_grad
    with pytest.raises(ValueError, match="prd_of_eclipse"):
        PriorTransformer.from_pretrained(tmp_path)


def test_numbers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="additional_embeddings is 4"):
        EclipsePrior(additional_embeddings=4)
    with pytest.raises(UserError, match="no ECLIPSE prior"):
        EclipsePrior(added_emb_type="other")


@pytest.fixture
def released(tmp_path: Path) -> tuple[Path, nn.Module]:
    """Write a tiny checkpoint in the form of the release, whose config has no word of ours."""
    network = awake(EclipsePrior(**TINY))
    config = {
        "_class_name": "PriorTransformer", "_diffusers_version": "0.20.2", **TINY, "additional_embeddings": 3,
        "added_emb_type": "prd", "encoder_hid_proj_type": "linear", "norm_in_type": None, "dropout": 0.0,
        "embedding_proj_norm_type": None, "embedding_proj_dim": None, "clip_embed_dim": None,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    return tmp_path, network


def test_training_starts_from_a_released_checkpoint(released: tuple[Path, nn.Module]) -> None:
    folder, network = released
    module = prior(pretrained=str(folder), network=PriorNetwork(12, heads=2, head_dim=8, layers=2, text_length=7))
    module.configure_model()
    assert module.transformer is not None and module.transformer.training
    own = module.transformer.state_dict()
    assert all(torch.equal(own[name], part) for name, part in network.state_dict().items())
    trained = {name for name, part in module.transformer.named_parameters() if part.requires_grad}
    assert trained == own.keys() - {"clip_mean", "clip_std"}
    assert module.starts_from() == str(folder)


@pytest.mark.parametrize(
    ("changes", "objective", "said"),
    [({"layers": 3}, None, "layers is 3, but the weights"),
     ({"reads_edges": True}, None, "read 3 tokens beside the text, but this prior 4"),
     ({}, DiffusionPriorObjective(), "read 3 tokens beside the text, but this prior 4")],
)  # fmt: skip
def test_weights_of_another_network_are_refused(
    released: tuple[Path, nn.Module], changes: dict[str, Any], objective: Any, said: str
) -> None:
    numbers = {"embedding_dim": 12, "heads": 2, "head_dim": 8, "layers": 2, "text_length": 7} | changes
    module = prior(objective, pretrained=str(released[0]), network=PriorNetwork(**numbers))
    with pytest.raises(UserError) as error:
        module.configure_model()
    assert said in str(error.value)
