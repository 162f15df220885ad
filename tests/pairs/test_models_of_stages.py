"""Stages that run models of diffusers and transformers, on tiny random ones of the same classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.pairs import DiffusersDraft, TeacherDraft, TransformersMask, TransformersPatches
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairRequest, Subject
from evolvedirector.pairs.pictures import mask_file, mask_of, picture_file, pixels_of
from tests.toys import ToyTeacher


def request(name: str = "a", **settings: Any) -> PairRequest:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    files = {
        REFERENCE: picture_file(pixels),
        REFERENCE_MASK: mask_file(mask),
        IMAGE: picture_file(pixels),
    }
    given: dict[str, Any] = {"kind": "tint", "prompt": "a red cat", "files": files, **settings}
    return PairRequest(name, Subject("s", "cat"), 7, 32, 32, **given)


def dino(folder: Path) -> Path:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=7
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_patches_of_a_vision_transformer_leave_its_class_token_out(tmp_path: Path) -> None:
    encoder = TransformersPatches(str(dino(tmp_path / "dino")), device="cpu")
    encoder.verify()
    images = [pixels_of(request().files[IMAGE]), np.zeros((64, 64, 3), np.uint8)]
    features = encoder.encode(images)
    assert features.shape == (2, 4, 4, 16) and encoder.estimated_bytes()
    assert np.allclose(encoder.encode(images[1:])[0], features[1], atol=1e-5)
    wider = TransformersPatches(str(tmp_path / "dino"), side_px=56, device="cpu")
    assert wider.encode(images[:1]).shape == (1, 8, 8, 16) and wider.fingerprint != encoder.fingerprint
    encoder.close()


def test_a_model_without_patches_is_refused(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path / "resnet")
    with pytest.raises(UserError, match="has no square patches"):
        TransformersPatches(str(tmp_path / "resnet")).verify()


def sam(folder: Path) -> Path:
    from transformers import (
        SamConfig,
        SamImageProcessorPil,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
        num_pos_feats=8, mlp_dim=16, window_size=4, global_attn_indexes=[0],
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = SamConfig(
        vision_config=vision.to_dict(), prompt_encoder_config=prompts.to_dict(), mask_decoder_config=decoder.to_dict()
    )
    SamModel(config).save_pretrained(folder)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    mask_sizes = {"mask_size": {"longest_edge": 16}, "mask_pad_size": {"height": 16, "width": 16}}
    SamProcessor(SamImageProcessorPil(**sizes, **mask_sizes)).save_pretrained(folder)
    return folder


def test_a_sam_without_detector_is_prompted_with_the_middle(tmp_path: Path) -> None:
    stage = TransformersMask(str(sam(tmp_path / "sam")), detector=None, device="cpu")
    stage.verify()
    replies = list(stage.mask([request("a"), request("b")]))
    assert [reply.request_id for reply in replies] == ["a", "b"]
    assert mask_of(replies[0].files[MASK]).shape == (64, 64) and stage.estimated_bytes()
    stage.close()


def owl(folder: Path) -> Path:
    import json

    from transformers import (
        CLIPTokenizer,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessorPil,
        OwlViTProcessor,
    )

    # the sign that begins a text has another number than 0, which stands for no text at all
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *[f"{letter}</w>" for letter in letters]]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config={**small, "vocab_size": 60, "max_position_embeddings": 77, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    OwlViTForObjectDetection(config).save_pretrained(folder)
    images = OwlViTImageProcessorPil(size={"height": 32, "width": 32})
    OwlViTProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_a_detector_by_words_prompts_the_sam_with_its_box_or_refuses(tmp_path: Path) -> None:
    names = str(sam(tmp_path / "sam")), str(owl(tmp_path / "owl"))
    found = list(TransformersMask(*names, least_confidence=0.0, device="cpu").mask([request()]))
    assert mask_of(found[0].files[MASK]).shape == (64, 64)
    lost = list(TransformersMask(*names, least_confidence=1.0, device="cpu").mask([request()]))
    assert lost[0].status == "refused" and "No 'cat' was found" in lost[0].reason


def test_of_a_segmentation_model_the_category_is_taken(tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[3, 3], strides=[2, 2],
        num_attention_heads=[1, 1], mlp_ratios=[2, 2], decoder_hidden_size=8,
        id2label={0: "background", 1: "cat", 2: "dog"}, label2id={"background": 0, "cat": 1, "dog": 2},
    )  # fmt: skip
    network = SegformerForSemanticSegmentation(config)
    with torch.no_grad():  # every pixel is a cat
        network.decode_head.classifier.weight.zero_()
        network.decode_head.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.5]))
    network.save_pretrained(tmp_path / "seg")
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "seg")
    stage = TransformersMask(str(tmp_path / "seg"), detector=None, device="cpu")
    assert mask_of(next(iter(stage.mask([request()]))).files[MASK]).all()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.lightning_modules.families.tiny_sd import save_stable_diffusion

    with torch.random.fork_rng(devices=[]):
        return save_stable_diffusion(tmp_path_factory.mktemp("sd") / "sd")


def test_image_to_image_draws_from_the_subject(pipeline: Path) -> None:
    settings: dict[str, Any] = {"dtype": "float32", "num_inference_steps": 2, "device": "cpu"}
    draft = DiffusersDraft(str(pipeline), strength=0.9, **settings)
    draft.verify()
    first, second = draft.draw([request("a"), request("b")])
    assert pixels_of(first.files[IMAGE]).shape == (32, 32, 3)
    assert np.array_equal(pixels_of(first.files[IMAGE]), pixels_of(second.files[IMAGE]))  # one seed, one picture
    weaker = DiffusersDraft(str(pipeline), strength=0.5, **settings)
    assert weaker.fingerprint != draft.fingerprint
    draft.close()


@pytest.mark.parametrize("control", ["canny", "mask"])
def test_a_controlnet_draws_under_the_form_of_the_subject(pipeline: Path, tmp_path: Path, control: Any) -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet: Any = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    net.save_pretrained(tmp_path / "net")
    settings: dict[str, Any] = {"dtype": "float32", "num_inference_steps": 2, "device": "cpu", "control": control}
    draft = DiffusersDraft(str(pipeline), controlnet=str(tmp_path / "net"), **settings)
    (reply,) = draft.draw([request()])
    off = DiffusersDraft(str(pipeline), controlnet=str(tmp_path / "net"), control_scale=0.0, **settings)
    (plain,) = off.draw([request()])
    assert not np.array_equal(pixels_of(reply.files[IMAGE]), pixels_of(plain.files[IMAGE]))


def test_depth_needs_its_model() -> None:
    with pytest.raises(UserError, match="control is 'depth', but no depth_model is named"):
        DiffusersDraft("x/y", controlnet="x/z", control="depth")


def test_any_teacher_draws_drafts() -> None:
    stage = TeacherDraft(ToyTeacher(), with_reference=True)
    stage.verify()
    (reply,) = stage.draw([request(prompt="tone 7")])
    assert reply.request_id == "a" and pixels_of(reply.files[IMAGE]).shape[-1] == 3
