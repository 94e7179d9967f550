from anyserve_worker.engine.stats import EngineStats, Histogram


def test_a_value_is_counted_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.add(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 14.0)


def test_each_engine_has_its_own_counts() -> None:
    first, second = EngineStats(), EngineStats()
    first.step_seconds.add(0.1)
    first.outcomes["stop"] += 1
    assert sum(second.step_seconds.counts) == 0
    assert not second.outcomes


def test_histogram_bounds_ascend() -> None:
    stats = EngineStats()
    for name in EngineStats.__slots__:
        if isinstance(histogram := getattr(stats, name), Histogram):
            assert list(histogram.bounds) == sorted(set(histogram.bounds)), name
