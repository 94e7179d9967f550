"""Orders to the load generator, and the answers that it records. PURE."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Orders:
    """Requests of a load. `bodies` and `late` are JSON texts."""

    port: int
    bodies: list[str]
    concurrency: int
    limit_s: float
    path: str = "/v1/completions"
    late: str = ""  # sent once every client has had `late_after` tokens; the load ends when its answer has begun
    late_after: int = 8
    began: float = 0.0  # time.perf_counter() that times count from; 0: when the load begins
    count: bool = False  # count marks and line ends instead of reading the events
    copies: int = 1  # with `count`: how often the stream has each token
    turns: int = 1  # bodies in a row that one client sends, each after the answer to the one before
    pause_s: float = 0.0  # mean of the random pauses before each body
    think: float = 0.0  # mean of the random pauses after each answer, as a multiple of the time that it took


@dataclass
class Answer:
    """The answer to one request. Times are in seconds since the load began."""

    sent: float
    ended: float = 0.0
    times: list[float] = field(default_factory=list)  # arrival of each chunk with text
    choices: list[int] = field(default_factory=list)  # index of the choice of each such chunk
    tokens: int = 0  # the server's count, or the number of marks; 0: not reported
    events: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish: str = ""
    error: str = ""
    cut: bool = False  # the time limit ended it
    late: bool = False
