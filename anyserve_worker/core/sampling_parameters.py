"""Parameters of how the tokens of a request are sampled. PURE."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """Each field has the name of its tensor. The contract's input table explains it and limits its range."""

    temperature: float = 1.0
    """0 to 100; 0 is greedy."""
    top_p: float = 1.0
    """Probability mass, 0 to 1 (off)."""
    top_k: int = 0
    """Tokens; 0: all."""
    min_p: float = 0.0
    """Probability relative to the likeliest token's, 0 (off) to 1."""
    typical_p: float = 1.0
    """Probability mass, 0 to 1 (off)."""
    top_n_sigma: float = 0.0
    """Standard deviations of the logits; 0: off."""
    presence_penalty: float = 0.0
    """Subtracted once from a token's logit, -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once per time that it was generated, -2 to 2."""
    repetition_penalty: float = 1.0
    """Factor; 1: off."""
    repeat_last_n: int = -1
    """Number of last tokens that the three penalties above consider; -1: all."""
    xtc_probability: float = 0.0
    """Probability of applying XTC to a token, 0 (off) to 1."""
    xtc_threshold: float = 0.1
    """Probability, 0 to 1."""
    dry_multiplier: float = 0.0
    """0 (off) to 100."""
    dry_base: float = 1.75
    """Factor per repeated token, 1 to 100."""
    dry_allowed_length: int = 2
    """Tokens that may repeat without a penalty."""
    dry_penalty_last_n: int = -1
    """Number of last tokens that DRY considers; -1: all."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    """Version, 1 or 2; 0: off."""
    mirostat_tau: float = 5.0
    """Target surprise in bits, 0 to 100."""
    mirostat_eta: float = 0.1
    """Learning rate, 0 to 1."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number added to its logit, -100 to 100)."""
    min_tokens: int = 0
    """Number of tokens before an end token or one of `stop_token_ids` can be sampled."""
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    """Number of likeliest tokens reported with each token; None: no log probabilities at all."""
    seed: int | None = None
    """Seed of choice 0; choice i uses seed + i, in 32 bits. None: random."""
