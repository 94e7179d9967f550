"""Events for Chainlit's page."""

from typing import Any

from anyserve_worker.pipelines.wrappers.standin.events import PipelineEvent


class ChainlitEvent(PipelineEvent):
    pass


def create_custom_element_event(name: str, props: dict[str, Any]) -> ChainlitEvent:
    return ChainlitEvent("custom_element", {"name": name, "props": props})
