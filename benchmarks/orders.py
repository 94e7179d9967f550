"""What the load generator is told and what it tells. PURE."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Orders:
    """What to send where; `bodies` and `late` are JSON texts."""

    port: int
    bodies: list[str]
    concurrency: int
    limit_s: float
    path: str = "/v1/completions"
    late: str = ""  # sent once every client has had `late_after` tokens; when it has begun to answer, all ends
    late_after: int = 8
    began: float = 0.0  # what times are counted from (time.perf_counter); 0: when the load begins
    count: bool = False  # count marks and line ends instead of reading the events


@dataclass
class Answer:
    """Of one request; times in seconds since the load began."""

    sent: float
    ended: float = 0.0
    times: list[float] = field(default_factory=list)  # when each chunk with text came
    choices: list[int] = field(default_factory=list)  # which choice it belonged to
    tokens: int = 0  # as the server counted them, or marks; 0: it did not say
    events: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish: str = ""
    error: str = ""
    cut: bool = False  # by the time limit
    late: bool = False
