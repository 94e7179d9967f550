"""Amount of work in a benchmark: everything, a quick look, or just enough to check that it works."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scripts.toolchain import usable_cores


@dataclass(frozen=True)
class Settings:
    """Settings that are the same for all compared systems."""

    rounds: int = 3
    python_rounds: int = 2  # for the peers written in Python, which are slow
    threads: int = usable_cores()
    n_ctx: int = 8192  # tokens that one sequence may have
    cells: int = 24576  # tokens that all sequences and cached prefixes may have together
    slots: int = 32  # sequences computed at once
    concurrencies: tuple[int, ...] = (1, 4, 8, 16, 32)
    streams: tuple[int, ...] = (1, 16, 64, 256, 1024)  # numbers of streams in the translator part
    form_rounds: int = 7  # of the comparison of API forms
    form_streams: tuple[int, ...] = (64, 256)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # in the raw limit part
    chunks: tuple[int, ...] = (32, 64, 128, 256, 512)  # tokens of a prompt in one llama_decode
    long_batches: tuple[int, ...] = (1, 8)  # this and the next: behind a long prompt
    long_chunks: tuple[int, ...] = (16, 128, 512)
    completion_tokens: int = 48
    long_prompt_tokens: int = 2000
    point_limit_s: float = 16.0  # longest time of a point; slow systems do less work in it
    short_s: float = 2.0  # duration of a point without a fixed amount of work
    neighbour_rounds: int = 2
    neighbour_concurrencies: tuple[int, ...] = (1, 8)
    reaction_s: float = 20.0
    latency_calls: int = 2000
    version_rounds: int = 8
    sampler_tokens: int = 160  # tokens that each sampler draws from random logits
    sampler_steps: int = 32  # steps of a model with each sampler
    sampler_prompt_tokens: int = 1900
    fairness_rounds: int = 1
    fairness_tokens: int = 7231  # tokens of a long prompt
    fairness_longs: tuple[int, ...] = (1, 4, 16)  # long prompts at a time
    fairness_shorts: int = 5
    fairness_limit_s: float = 15.0  # for all short chats of a point
    background_rounds: int = 5
    background_s: float = 30.0  # duration of each point
    replica_rounds: int = 3
    replica_users: int = 6  # at the same time
    conversations: int = 6  # of all users together
    turns: int = 4  # of each conversation
    document_tokens: int = 400  # in the first message of a conversation
    pause_s: float = 4.0  # between turns; longer than most answers, or the worker that has just answered is idle
    replica_limit_s: float = 240.0  # for a point
    store_rounds: int = 3
    store_calls: int = 400  # of each kind of request to each sidecar
    stored_responses: int = 100_000  # when reads and sweeps are measured
    store_reads: int = 3000  # of each kind
    batch_rounds: int = 5
    batch_lines: int = 1000  # beside interactive clients
    batch_requests: int = 60  # of all interactive clients together, a round
    batch_lines_alone: int = 320
    probe_s: float = 5.0  # duration of a measurement of pauses

    def requests(self, concurrency: int) -> int:
        """Requests of a point: two waves, and at least six for a percentile."""
        return max(2 * concurrency, 6)


FULL = Settings()
QUICK = replace(
    FULL,
    rounds=1,
    python_rounds=1,
    concurrencies=(1, 8, 32),
    streams=(1, 64),
    form_rounds=3,
    form_streams=(64,),
    batches=(1, 8, 32),
    chunks=(128, 512),
    point_limit_s=12.0,
    short_s=1.0,
    neighbour_rounds=1,
    neighbour_concurrencies=(1,),
    reaction_s=12.0,
    latency_calls=500,
    version_rounds=4,
    sampler_tokens=40,
    sampler_steps=8,
    fairness_tokens=3000,
    fairness_longs=(1, 16),
    fairness_limit_s=12.0,
    background_rounds=2,
    background_s=12.0,
    replica_rounds=1,
    store_rounds=1,
    store_calls=150,
    stored_responses=20_000,
    store_reads=500,
    batch_rounds=2,
    batch_requests=32,
    batch_lines_alone=160,
)
SMOKE = replace(
    QUICK,
    threads=1,
    slots=2,
    n_ctx=1024,
    cells=2048,
    concurrencies=(1, 2),
    streams=(1, 4),
    form_rounds=1,
    form_streams=(4,),
    batches=(1, 2),
    chunks=(32,),
    long_batches=(1,),
    long_chunks=(16,),
    completion_tokens=4,
    long_prompt_tokens=200,
    point_limit_s=10.0,
    short_s=0.3,
    reaction_s=1.0,
    latency_calls=20,
    version_rounds=2,
    sampler_tokens=8,
    sampler_steps=2,
    sampler_prompt_tokens=100,
    fairness_tokens=600,
    fairness_longs=(1, 2),
    fairness_shorts=2,
    background_rounds=1,
    background_s=1.0,
    replica_users=2,
    conversations=2,
    turns=2,
    document_tokens=100,
    pause_s=0.5,
    replica_limit_s=60.0,
    store_calls=5,
    stored_responses=200,
    store_reads=20,
    batch_rounds=1,
    batch_requests=4,
    batch_lines_alone=4,
    probe_s=0.3,
)
