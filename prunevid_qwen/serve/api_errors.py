"""ApiError: what a client is told, in the form of OpenAI's API, and which of our errors is which."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError, PruneVidError, UnsupportedError


class ApiError(Exception):
    """A request that is not answered, or not to its end.

    Args:
        status: of HTTP.
        message: why, and what to do.
        code: in a word; None where the status says it.
        param: which part of the request is wrong; None where none is.
        retry_after: seconds after which the same request may be answered; None where it will not be.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def __reduce__(self) -> Any:
        return ApiError, (self.status, self.message, self.code, self.param, self.retry_after)

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, beside those of its form."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def api_error(error: BaseException) -> ApiError:
    """Return what a client is told of an error.

    A request's own faults are 400. Of anything else no words are passed on: they may be about other requests.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MediaError):
        return ApiError(400, str(error), "invalid_media", "messages")
    if isinstance(error, UnsupportedError):
        return ApiError(400, str(error), "unsupported")
    if isinstance(error, ConfigError):
        return ApiError(400, str(error), "invalid_value")
    if isinstance(error, PruneVidError):
        return ApiError(500, f"the model did not answer: {error}", "not_answered")
    return ApiError(500, "something went wrong here that is no fault of the request: see the server's log", "internal")
