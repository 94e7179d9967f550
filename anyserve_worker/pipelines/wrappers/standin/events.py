"""Events for a page that shows an answer, such as Open WebUI's. The worker leaves them out of answers."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class StatusEventData:
    description: str
    done: bool = False
    hidden: bool = False


@dataclass
class NotificationEventData:
    content: str
    type: str = "info"
    """`info`, `success`, `warning` or `error`."""


@dataclass
class PipelineEvent:
    type: str
    data: Any
    """An object of a class above, or a dict."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_event_dict(self) -> dict[str, Any]:
        return self.to_dict()


def create_status_event(description: str, done: bool = False, hidden: bool = False) -> PipelineEvent:
    return PipelineEvent("status", StatusEventData(description, done, hidden))


def create_notification_event(content: str, notification_type: str = "info") -> PipelineEvent:
    return PipelineEvent("notification", NotificationEventData(content, notification_type))
