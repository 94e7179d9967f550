from benchmarks import pace, prompts


def test_prompts_are_the_same_in_every_run() -> None:
    assert prompts.short("round 0", 3) == prompts.short("round 0", 3)


def test_short_prompts_share_no_prefix() -> None:
    begins = [" ".join(prompts.short("round 0", number).split()[:5]) for number in range(100)]
    assert len(set(begins)) == 100
    assert prompts.short("round 1", 0) != prompts.short("round 0", 0)


def test_shared_prompts_share_only_their_prefix() -> None:
    first, second = prompts.shared("s", 1, 200), prompts.shared("s", 2, 200)
    prefix = prompts.prose("s", 200)
    assert first != second
    assert first.startswith(prefix)
    assert second.startswith(prefix)


def test_a_prompt_sets_the_pace_of_a_stand_in() -> None:
    assert pace.parse(pace.prompt(40, 12.5)) == (40, 0.0125)
    assert pace.parse("hello") == (1, 0.0)
