"""The queued responses that run next."""

from openai_server.store.fairness import fair


def test_a_place_goes_to_the_owner_with_the_fewest_running_responses() -> None:
    queued = {"a": [(1.0, "a1"), (2.0, "a2"), (3.0, "a3")], "b": [(9.0, "b1")], "c": [(8.0, "c1"), (9.5, "c2")]}
    assert fair(queued, {}, 4) == ["a1", "c1", "b1", "a2"]
    assert fair(queued, {"a": 2, "c": 1}, 4) == ["b1", "c1", "a1", "c2"]


def test_one_owner_gets_all_places_in_order() -> None:
    assert fair({"a": [(1.0, "a1"), (2.0, "a2")], "b": []}, {"a": 5}, 9) == ["a1", "a2"]
