"""The built-in kind `openai`: models of an upstream with OpenAI's API."""

from anyserve_worker.pipelines.openai_api.pipeline import load

__all__ = ["load"]
