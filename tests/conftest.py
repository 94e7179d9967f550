"""Hypothesis finds the same examples in every run; `--hypothesis-profile=explore` looks further."""

from hypothesis import settings

collect_ignore = ["browser"]
"""Needs a browser: `make test-browser` names it."""

settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000, database=None)
settings.load_profile("same")
