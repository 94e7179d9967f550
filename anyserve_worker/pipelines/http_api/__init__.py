"""The built-in kind `http`: models of a foreign HTTP API, which a mapping in TOML describes."""

from anyserve_worker.pipelines.http_api.pipeline import load

__all__ = ["load"]
