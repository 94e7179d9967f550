"""The order in which guides are compiled, and the limits of the queue."""

from anyserve_worker.guides.queue import GuideQueue


def build(n_levels: int = 1, max_jobs: int = 100, max_per_caller: int = 100) -> GuideQueue[str]:
    return GuideQueue(n_levels, max_jobs, max_per_caller)


def drain(queue: GuideQueue[str]) -> list[str]:
    jobs = []
    while (job := queue.take()) is not None:
        jobs.append(job)
    assert len(queue) == 0
    return jobs


def test_take_returns_none_from_an_empty_queue() -> None:
    assert build().take() is None


def test_jobs_of_one_caller_are_taken_in_order() -> None:
    queue = build()
    assert all(queue.add(job, "a") for job in ("1", "2", "3"))
    assert len(queue) == 3
    assert drain(queue) == ["1", "2", "3"]


def test_callers_take_turns() -> None:
    queue = build()
    for job in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.add(job, job[0])
    assert drain(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_returning_caller_does_not_overtake_a_waiting_one() -> None:
    """A caller still gets its turns while two others add one job after the other."""
    queue = build()
    for job in ("c1", "c2", "c3"):
        queue.add(job, "c")
    served = []
    for i in range(9):
        for caller in "ab":
            if f"{caller}{i}" not in served:
                queue.add(f"{caller}{i}", caller)
        served += [queue.take(), queue.take(), queue.take()]
    assert [job for job in served if job and job[0] == "c"] == ["c1", "c2", "c3"]
    assert max(served.index(job) for job in ("c1", "c2", "c3")) < 9


def test_a_new_caller_goes_before_the_one_served_last() -> None:
    queue = build()
    for job in ("a1", "a2", "a3"):
        queue.add(job, "a")
    assert queue.take() == "a1"
    queue.add("b1", "b")
    assert drain(queue) == ["b1", "a2", "a3"]


def test_a_callers_lower_level_goes_first() -> None:
    queue = build(3)
    queue.add("long", "a", 2)
    queue.add("short", "a", 1)
    queue.add("of another", "b", 2)
    assert drain(queue) == ["short", "of another", "long"]


def test_a_job_of_several_callers_is_taken_once() -> None:
    queue = build()
    queue.add("a1", "a")
    queue.add("common", "a")
    queue.add("common", "b")
    queue.add("b1", "b")
    assert len(queue) == 4
    assert drain(queue) == ["a1", "common", "b1"]


def test_a_job_that_all_its_callers_discard_is_not_taken() -> None:
    queue = build()
    queue.add("common", "a")
    queue.add("common", "b")
    queue.discard("common", "a")
    queue.discard("common", "unknown")
    queue.discard("nothing", "b")
    assert len(queue) == 1
    assert drain(queue) == ["common"]
    queue.add("gone", "a")
    queue.discard("gone", "a")
    assert queue.take() is None


def test_a_caller_at_its_limit_leaves_room_for_others() -> None:
    queue = build(2, max_jobs=5, max_per_caller=2)
    assert [queue.add(f"a{i}", "a", 1) for i in range(3)] == [True, True, False]
    assert [queue.add(f"b{i}", "b", 1) for i in range(3)] == [True, True, False]
    assert queue.add("c0", "c", 1)
    assert not queue.add("d0", "d", 1), "the limit of all callers is reached"
    assert all(queue.add(f"quick{i}", "a") for i in range(9)), "lower levels have no limit"
    assert queue.take() == "quick0"
    assert queue.take() == "b0"
    assert queue.add("d0", "d", 1)


def test_a_cleared_queue_is_empty() -> None:
    queue = build()
    queue.add("1", "a")
    queue.clear()
    assert drain(queue) == []
    assert queue.add("2", "a")
    assert drain(queue) == ["2"]
