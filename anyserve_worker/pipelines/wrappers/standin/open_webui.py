"""Events for Open WebUI."""

from dataclasses import dataclass
from typing import Any

from anyserve_worker.pipelines.wrappers.standin.events import (
    NotificationEventData,
    PipelineEvent,
    StatusEventData,
    create_notification_event,
    create_status_event,
)

__all__ = [
    "MessageEventData",
    "NotificationEventData",
    "OpenWebUIEvent",
    "PipelineEvent",
    "StatusEventData",
    "create_chat_completion_event",
    "create_details_tag",
    "create_message_event",
    "create_notification_event",
    "create_replace_event",
    "create_source_event",
    "create_status_event",
]


@dataclass
class MessageEventData:
    content: str


class OpenWebUIEvent(PipelineEvent):
    pass


def create_chat_completion_event(data: dict[str, Any]) -> OpenWebUIEvent:
    return OpenWebUIEvent("chat:completion", data)


def create_message_event(content: str) -> OpenWebUIEvent:
    return OpenWebUIEvent("message", MessageEventData(content))


def create_replace_event(content: str) -> OpenWebUIEvent:
    return OpenWebUIEvent("replace", MessageEventData(content))


def create_source_event(source_data: dict[str, Any]) -> OpenWebUIEvent:
    return OpenWebUIEvent("source", source_data)


def create_details_tag(tool_name: str, summary: str, content: str) -> str:
    """Markup that Open WebUI shows as a block that can be opened. It is text of the answer, not an event."""
    head = f'<details type="{tool_name}" done="true">\n<summary>{summary}</summary>\n'
    return f"{head}\n{content}\n</details>\n\n"
