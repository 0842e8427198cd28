"""RequestRules: what can be refused of a request without its model and without what it shows."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.serve.allowed_configs import AllowedConfigs
from prunevid_qwen.serve.api_errors import ApiError
from prunevid_qwen.serve.chat_request import ChatRequest
from prunevid_qwen.serve.limits import ServeLimits


@dataclass(frozen=True)
class RequestRules:
    """What a request may ask for.

    Args:
        name: under which clients know the model.
        allowed: prunings.
        limits: of one request and of all.
    """

    name: str
    allowed: AllowedConfigs
    limits: ServeLimits

    def check(self, request: ChatRequest) -> PruneVidConfig:
        """Return the config of a request.

        Raises:
            ApiError: it asks for another model, or for more than there is.
            ConfigError: its pruning is not offered.
        """
        limits = self.limits
        if request.model != self.name:
            raise ApiError(404, f"this server has the model {self.name!r} alone", "model_not_found", "model")
        asked = (("max_tokens", request.limit or 1, limits.answer_tokens), ("n", request.n, limits.answers))
        for name, value, most in asked:
            if value > most:
                raise ApiError(400, f"{name} is at most {most} here, got {value}", "invalid_value", name)
        if len(request.shown) > limits.media:
            raise ApiError(
                400, f"a request shows at most {limits.media} images and videos here, got {len(request.shown)}",
                "invalid_value", "messages",
            )  # fmt: skip
        return self.allowed.chosen(request.config, request.options)
