"""The base class of wrappers."""

from typing import Any


class BasePipelineWrapper:
    skip_mcp = False
    skip_a2a = False
    a2a_card: dict[str, Any] | None = None

    def __init__(self) -> None:
        self.pipeline: Any = None

    def setup(self) -> None:
        """Prepares the wrapper, once, before its first request."""

    def run_api(self) -> Any:
        raise NotImplementedError("run_api")

    async def run_api_async(self) -> Any:
        raise NotImplementedError("run_api_async")

    def run_chat_completion(self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        raise NotImplementedError("run_chat_completion")

    async def run_chat_completion_async(self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        raise NotImplementedError("run_chat_completion_async")

    def run_response(self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        raise NotImplementedError("run_response")

    async def run_response_async(self, model: str, input_items: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        raise NotImplementedError("run_response_async")

    def run_file_upload(self, filename: str | None, content_type: str | None, content: bytes, purpose: str) -> Any:
        raise NotImplementedError("run_file_upload")
