"""Lines during which the backend was lost."""

import asyncio

from openai_server.api.lost_lines import MAX_LINES, MAX_LOSSES, MAX_LOSSES_TOGETHER, LostLines


def test_a_line_is_tried_again_a_few_times() -> None:
    lines = LostLines()
    assert [lines.may_be_tried_again("1") for _ in range(MAX_LOSSES)] == [True] * (MAX_LOSSES - 1) + [False]
    assert lines.may_be_tried_again("1")  # a new count


def test_an_answer_ends_the_count() -> None:
    lines = LostLines()
    for _ in range(3 * MAX_LOSSES):
        assert lines.may_be_tried_again("1")
        lines.forget("1")


def test_lines_are_counted_one_by_one() -> None:
    lines = LostLines()
    assert all(lines.may_be_tried_again(str(i)) for i in range(2 * MAX_LOSSES))


def test_the_number_of_remembered_lines_is_bounded() -> None:
    lines = LostLines()
    for i in range(2 * MAX_LINES):
        lines.may_be_tried_again(str(i))
    assert len(lines._losses) == MAX_LINES


async def test_lost_lines_run_one_at_a_time() -> None:
    lines, running, most = LostLines(), 0, dict.fromkeys(("lost", "lost once", "fresh"), 0)
    keys = [str(i) for i in range(4)]

    async def run(kind: str, line: str) -> None:
        nonlocal running
        async with lines.turn(line):
            running += 1
            most[kind] = max(most[kind], running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(run("fresh", line) for line in keys))
    for _ in range(MAX_LOSSES_TOGETHER - 1):
        for line in keys:
            lines.may_be_tried_again(line)
    await asyncio.gather(*(run("lost once", line) for line in keys))
    for line in keys:
        lines.may_be_tried_again(line)
    await asyncio.gather(*(run("lost", line) for line in keys))
    assert most == {"fresh": 4, "lost once": 4, "lost": 1}
