"""What pruning a request may ask for: presets and budgets within the operator's limits, and never a path."""

from __future__ import annotations

from typing import Any

import pytest

from prunevid_qwen import get_config
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.serve.allowed_configs import AllowedConfigs

QUIET: dict[str, Any] = {"verbose": False, "collect_stats": True}


def test_the_operators_config_and_presets() -> None:
    allowed = AllowedConfigs("paper", {"keep_ratio": "0.2", "max_frames": "12"})
    assert allowed.chosen(None, None) == get_config("paper").replace(keep_ratio=0.2, max_frames=12, **QUIET)
    assert allowed.chosen("baseline", {}) == get_config("baseline").replace(max_frames=12, **QUIET)
    assert allowed.chosen("paper", {"keep_ratio": 0.5}).flat()["keep_ratio"] == 0.5
    fastv = allowed.chosen("fastv", {"max_frames": 8})
    assert fastv == get_config("fastv").replace(max_frames=8, **QUIET)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("nothing", {}), ("/etc/passwd", {}), ("../config.json", {}), ("vscan", {}), ("paper", {"tau": 0.7}),
        ("paper", {"glimpse_path": "x"}), ("paper", {"selector": "glimpse"}), ("paper", {"keep_ratio": 25}),
        ("paper", {"keep_ratio": [0.5]}), ("paper", {"keep_ratio": None}), ("paper", {"max_frames": 10**6}),
        ("paper", {"video_backend": "opencv"}), ("baseline", {"keep_ratio": 0.5}), ("paper", {"verbose": True}),
        ("paper", {"selector.keep_ratio": {"x": 1}}), ("paper", {"": 1}),
    ],
)  # fmt: skip
def test_everything_else_is_refused(config: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AllowedConfigs().chosen(config, options)


def test_what_the_operator_allows() -> None:
    assert AllowedConfigs(options=("tau",)).chosen("paper", {"tau": 0.7}).flat()["tau"] == 0.7
    with pytest.raises(ConfigError):
        AllowedConfigs(presets=("paper",)).chosen("baseline", {})
    # frames are no more than the limit, whatever the operator's own config says
    assert AllowedConfigs(given={"max_frames": "64"}, frames=32).chosen(None, {}).flat()["max_frames"] == 32
