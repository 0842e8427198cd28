"""Which releases of transformers are right, found out by asking them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from prunevid_qwen.adapters.positions import TEXT, VIDEO, reference_positions
from prunevid_qwen.errors import SetupError
from prunevid_qwen.version import TESTED

logger = logging.getLogger("prunevid_qwen")

OLDEST = (5, 6)


def numbers_of(version: str) -> tuple[int, ...]:
    """Return major and minor number of a release."""
    return tuple(int(part) for part in version.split(".")[:2])


def check_transformers(version: str) -> None:
    """Refuse releases of transformers that answer videos wrongly.

    Raises:
        SetupError: the release is older than 5.6; the message says why.
    """
    if numbers_of(version) < OLDEST:
        raise SetupError(
            f"transformers {version} is not supported (5.3 to 5.5 give every frame of a video the same time position): "
            "pip install -U 'transformers>=5.6'"
        )


@cache
def library_agrees(version: str) -> bool:
    """Tell whether the installed transformers places text after a video as the model was trained.

    Asked of a toy video, not a list of versions: 6 temporal positions of 2 x 2 tokens, then one text token.
    """
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    class Toy:  # get_rope_index reads the config alone, so no weights are made
        config = Qwen2_5_VLConfig()
        get_vision_position_ids = getattr(Qwen2_5_VLModel, "get_vision_position_ids", None)

    index: Callable[..., tuple[Tensor, Tensor]] = Qwen2_5_VLModel.get_rope_index
    tokens_per_second = Toy.config.vision_config.tokens_per_second
    with torch.device("cpu"):  # whatever the caller's default device
        types = torch.tensor([[VIDEO] * 24 + [TEXT]])
        places, _ = index(
            Toy(),
            types.clone(),
            types,
            video_grid_thw=torch.tensor([[6, 4, 4]]),
            second_per_grid_ts=torch.tensor([0.75]),
        )
        expected, _ = reference_positions(types, None, [], [(6, 2, 2)], [0.75], tokens_per_second)
    return bool(torch.equal(places, expected))


@cache
def warn_once_about_positions(version: str) -> None:
    """Say, once a process, that the installed release and the model's training disagree about positions.

    A warning under a release that nobody tested; of a tested one it is known and no news: INFO.
    """
    logger.log(
        logging.INFO if version in TESTED else logging.WARNING,
        "transformers %s places the text after a video elsewhere than Qwen2.5-VL was trained with; "
        "position_scheme='reference' (the default) uses the trained positions, 'hf' the library's",
        version,
    )
