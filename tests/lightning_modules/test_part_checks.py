"""Parts that do not fit each other, or not the checkpoint, are refused by name."""

import pytest

from evolvedirector.lightning_modules.part_checks import check_frozen_parts


def test_weights_stay_with_the_frozen_parts_they_were_trained_beside() -> None:
    own = {"text encoder": "t5 1", "autoencoder": None}
    check_frozen_parts(own, own)
    check_frozen_parts(own, {})  # a checkpoint that names none
    with pytest.raises(ValueError, match="has the autoencoder None, but the checkpoint was trained with 'sd 2'"):
        check_frozen_parts(own, {"text encoder": "t5 1", "autoencoder": "sd 2"})
