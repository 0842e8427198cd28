"""Our model inside lmms-eval, found by its entry point ``lmms_eval.models``; only `model` imports lmms-eval."""

from typing import Any


def manifests() -> Any:
    """Tell lmms-eval the model's name and class; called at each of its starts, so nothing heavy is imported here."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("prunevid_qwen", chat_class_path=f"{__name__}.model.PruneVidQwen")
