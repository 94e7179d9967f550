"""Parses Prometheus' text format."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """A parsed scrape. Raises ValueError for invalid text."""

    def __init__(self, text: bytes) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text.decode())}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Returns the sum over all series that have these labels; 0 if there is none."""
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())

    def series(self, name: str) -> list[Mapping[str, str]]:
        """Returns the labels of each series."""
        return [sample.labels for sample in self._samples if sample.name == name]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}
