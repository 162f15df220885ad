"""Parts that do not fit each other, or not the checkpoint, are refused by name."""

import pytest

from evolvedirector.lightning_modules.part_checks import check_frozen_parts, check_precision


def test_weights_stay_with_the_frozen_parts_they_were_trained_beside() -> None:
    own = {"text_encoder": "t5 1", "codec": "pixels"}
    check_frozen_parts(own, own)
    check_frozen_parts(own, {})  # a checkpoint that names none
    with pytest.raises(ValueError, match="has the codec 'pixels', but the checkpoint was trained with 'sd 2'"):
        check_frozen_parts(own, {"text_encoder": "t5 1", "codec": "sd 2"})


def test_names_of_older_checkpoints_are_understood() -> None:
    check_frozen_parts({"text_encoder": "t5 1", "codec": "pixels"}, {"text encoder": "t5 1", "autoencoder": None})
    with pytest.raises(ValueError, match="the text_encoder 't5 1'"):
        check_frozen_parts({"text_encoder": "t5 1"}, {"text encoder": "t5 2"})


def test_a_folder_that_was_named_without_its_content_still_fits() -> None:
    check_frozen_parts({"codec": "sd-folder-0123456789ab"}, {"codec": "sd-folder"})
    with pytest.raises(ValueError, match="codec"):
        check_frozen_parts({"codec": "sd-folder-0123456789ab"}, {"codec": "sd-folder-ba9876543210"})
    with pytest.raises(ValueError, match="codec"):
        check_frozen_parts({"codec": "sd-folder-unmasked"}, {"codec": "sd-folder"})


def test_weights_in_half_precision_are_refused() -> None:
    for precision in ("32-true", "bf16-mixed", "16-mixed", "64-true"):
        check_precision(precision)
    with pytest.raises(ValueError, match="Write precision: bf16-mixed"):
        check_precision("bf16-true")
