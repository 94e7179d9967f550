"""Prometheus metrics of the store, for a server that has one.

What the store holds is the same for all processes and replicas that share it, so each of them reports the same sizes.
"""

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RunMeter:
    """Counts what a `jobs.runner` runs, and what it recovers by `outcome`: `requeued` or `failed`."""

    def __init__(self, running: Gauge, recovered: Counter) -> None:
        self._running = running
        self._requeued, self._failed = recovered.labels("requeued"), recovered.labels("failed")

    def running(self, n: int) -> None:
        """Adds `n` to the number of those that this process runs."""
        self._running.inc(n)

    def recovered(self, *, requeued: int, failed: int) -> None:
        self._requeued.inc(requeued)
        self._failed.inc(failed)


class StoreMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def level(name: str, meaning: str, mode: str) -> Gauge:
            return Gauge(name, meaning, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]  # a literal

        def size(name: str, meaning: str) -> Gauge:
            return level(name, meaning, "livemostrecent")

        seconds = Histogram(
            "openai_server_store_seconds",
            "Time of a transaction on the store, waiting for its turn included.",
            ["operation"],
            registry=registry,
            buckets=SECONDS,
        )
        self._seconds = cache(seconds.labels)
        self._failures = Counter(
            "openai_server_store_failures",
            "Transactions that failed because the store did not answer.",
            registry=registry,
        )
        self._up = level(
            "openai_server_store_up", "1 while the store answers, 0 while it can't be reached.", mode="livemin"
        )
        self._responses = size("openai_server_store_responses", "Stored responses of all API keys.")
        self._conversations = size("openai_server_store_conversations", "Stored conversations of all API keys.")
        self._bytes = size("openai_server_store_bytes", "Bytes of stored responses and conversations.")
        self._files = size("openai_server_store_files", "Files of all API keys, with pending uploads.")
        self._file_bytes = size("openai_server_store_file_bytes", "Bytes of files and of the parts of pending uploads.")
        self._free_bytes = size(
            "openai_server_store_file_free_bytes", "Bytes for which the disk of the files has room; 0 without a place."
        )
        self._queued = size("openai_server_store_background_queued", "Background responses that wait for a server.")
        self._in_progress = size(
            "openai_server_store_responses_in_progress", "Stored responses that a server generates at the moment."
        )
        running = level(
            "openai_server_background_running", "Background responses that this server generates.", mode="livesum"
        )
        recovered = Counter(
            "openai_server_store_recovered",
            "Responses of servers that ended while they generated them: `requeued` to be generated again, or `failed`.",
            ["outcome"],
            registry=registry,
        )
        self.background = RunMeter(running, recovered)
        self._unfinished_batches = size("openai_server_store_batches", "Batches of all API keys that have not ended.")
        self._unfinished_lines = size(
            "openai_server_store_batch_lines", "Lines of batches in progress that have not ended."
        )
        running_lines = level(
            "openai_server_batch_lines_running", "Lines of batches that this server runs.", mode="livesum"
        )
        recovered_lines = Counter(
            "openai_server_batch_lines_recovered",
            "Lines of servers that ended while they ran them: `requeued` to be run again, or `failed`.",
            ["outcome"],
            registry=registry,
        )
        self.lines = RunMeter(running_lines, recovered_lines)
        lines = Counter(
            "openai_server_batch_lines",
            "Lines of batches that this server ran to their end: `completed`, or `failed` with an error.",
            ["outcome"],
            registry=registry,
        )
        self._completed_lines, self._failed_lines = lines.labels("completed"), lines.labels("failed")
        batches = Counter(
            "openai_server_batches", "Batches that this server ended, by their status.", ["status"], registry=registry
        )
        self._batches = cache(batches.labels)

    def observe(self, operation: str, seconds: float, answered: bool) -> None:
        """Records a transaction. `operation` is the name of the store's method."""
        self._seconds(operation).observe(seconds)
        if not answered:
            self._failures.inc()
        self._up.set(answered)

    def set_up(self, up: bool) -> None:
        self._up.set(up)

    def file_sizes(self, *, files: int, bytes: int, free: int) -> None:
        """Sets what files take. `free`: bytes for which there is room."""
        self._files.set(files)
        self._file_bytes.set(bytes)
        self._free_bytes.set(free)

    def sizes(self, *, responses: int, conversations: int, bytes: int, queued: int, in_progress: int) -> None:
        """Sets what the store holds. `queued` are background responses, `in_progress` all kinds."""
        self._responses.set(responses)
        self._conversations.set(conversations)
        self._bytes.set(bytes)
        self._queued.set(queued)
        self._in_progress.set(in_progress)

    def batch_sizes(self, *, batches: int, lines: int) -> None:
        """Sets the numbers of batches that have not ended, and of their lines that have not ended."""
        self._unfinished_batches.set(batches)
        self._unfinished_lines.set(lines)

    def lines_ended(self, *, completed: int, failed: int) -> None:
        """Counts lines whose results this process has stored."""
        self._completed_lines.inc(completed)
        self._failed_lines.inc(failed)

    def batch_ended(self, status: str) -> None:
        self._batches(status).inc()
