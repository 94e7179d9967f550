from anyserve_worker.core.request_timer import Progress, RequestTimer, Times

MS = 1_000_000


def test_times_begin_with_the_first_token() -> None:
    timer = RequestTimer(times=True, progress=False)
    timer.start(5 * MS)
    timer.end_step(7 * MS, samples=False)
    assert timer.times is None
    timer.end_step(9 * MS, samples=True)
    assert timer.times == Times(4.0, 0.0)
    timer.end_step(12 * MS, samples=True)
    timer.end_step(13 * MS, samples=False)  # of another choice, whose prompt is not read yet
    assert timer.times == Times(4.0, 3.0)
    assert timer.progress(13 * MS, 0, 10) == ()


def test_progress_begins_with_the_cached_tokens() -> None:
    timer = RequestTimer(times=False, progress=True)
    timer.start(5 * MS)
    assert timer.progress(7 * MS, 3, 8) == (Progress(3, 0.0), Progress(8, 2.0))
    assert timer.progress(8 * MS, 3, 12) == (Progress(12, 3.0),)
    assert timer.progress(9 * MS, 3, 2) == ()  # the prompt is computed again
    assert timer.progress(9 * MS, 3, 12) == ()
    assert timer.progress(10 * MS, 3, 13) == (Progress(13, 5.0),)
    timer.end_step(10 * MS, samples=True)
    assert timer.times is None
