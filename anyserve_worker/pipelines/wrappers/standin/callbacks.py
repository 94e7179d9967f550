"""Ready-made callbacks for the streaming generators."""

from typing import Any

from anyserve_worker.pipelines.wrappers.standin.events import (
    PipelineEvent,
    create_notification_event,
    create_status_event,
)
from anyserve_worker.pipelines.wrappers.standin.open_webui import create_details_tag


def default_on_tool_call_start(tool_name: str, arguments: Any, tool_call_id: str | None) -> PipelineEvent | None:
    return create_status_event(f"Calling '{tool_name}' tool...") if tool_name else None


def default_on_tool_call_end(
    tool_name: str, arguments: dict[str, Any], result: str, error: bool
) -> list[PipelineEvent | str]:
    called = create_status_event(f"Called '{tool_name}' tool", done=True, hidden=error)
    if error:
        return [called, create_notification_event(f"Error calling '{tool_name}' tool", "error")]
    content = f"```\nArguments:\n{arguments}\n\nResponse:\n{result}\n```"
    return [called, create_details_tag(tool_name, f"Tool call result for '{tool_name}'", content)]


def default_on_pipeline_end(result: Any) -> str:
    return str(result)
