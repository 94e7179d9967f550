from dataclasses import dataclass, field
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from openai_server.access.admission import Admission, State, Ticket, Turnover


@dataclass
class Room:
    """Records the names of admitted and rejected tickets. The name's first letter is the caller."""

    admission: Admission
    tickets: dict[str, Ticket] = field(default_factory=dict)
    admitted: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def arrive(self, *names: str) -> None:
        for name in names:
            ticket = self.tickets[name] = Ticket(name[0], partial(self._decided, name))
            self.admission.arrive(ticket)

    def leave(self, *names: str) -> None:
        for name in names:
            self.admission.leave(self.tickets[name])

    def _decided(self, name: str) -> None:
        assert name not in self.admitted + self.rejected, "a ticket must be decided once"
        running = self.tickets[name].state is State.RUNNING
        (self.admitted if running else self.rejected).append(name)


def test_requests_beyond_the_slots_and_the_queue_are_rejected_at_once() -> None:
    room = Room(Admission(2, 2))
    room.arrive("a1", "a2", "a3", "a4", "a5")
    assert (room.admitted, room.rejected) == (["a1", "a2"], ["a5"])
    room.leave("a2")
    assert room.admitted == ["a1", "a2", "a3"]
    room.leave("a1", "a3")
    assert room.admitted == ["a1", "a2", "a3", "a4"]


def test_without_a_limit_every_request_is_admitted() -> None:
    room = Room(Admission(0, 0))
    names = [f"a{i}" for i in range(1000)]
    room.arrive(*names)
    assert room.admitted == names
    room.leave(*names)
    assert room.admission.running == 0


def test_without_a_queue_requests_beyond_the_slots_are_rejected() -> None:
    room = Room(Admission(1, 0))
    room.arrive("a1", "b1")
    assert (room.admitted, room.rejected) == (["a1"], ["b1"])


def test_many_requests_of_one_caller_do_not_starve_another() -> None:
    room = Room(Admission(1, 10))
    room.arrive("a1", "a2", "a3", "a4", "b1", "b2")
    room.leave("a1")
    assert room.admitted == ["a1", "b1"]  # b has never been served
    room.leave("b1")
    assert room.admitted[2:] == ["a2"]  # a and b alternate
    room.leave("a2")
    assert room.admitted[3:] == ["b2"]


def test_a_slot_goes_to_the_caller_with_the_fewest_running_requests() -> None:
    room = Room(Admission(4, 10))
    room.arrive("a1", "a2", "a3", "b1", "a4", "a5", "b2")
    room.leave("a1")
    assert room.admitted[4:] == ["b2"]
    room.leave("b1", "b2")
    assert room.admitted[5:] == ["a4", "a5"]


def test_a_full_queue_gives_places_of_its_largest_caller_to_others() -> None:
    room = Room(Admission(1, 3))
    room.arrive("a1", "a2", "a3", "a4", "a5", "b1")
    assert room.rejected == ["a5", "a4"]
    room.arrive("b2")  # b waits with one, a with two
    assert room.rejected == ["a5", "a4", "a3"]
    room.arrive("b3", "a6")
    assert room.rejected == ["a5", "a4", "a3", "b3", "a6"]


def test_leaving_the_queue_frees_a_place() -> None:
    room = Room(Admission(1, 1))
    room.arrive("a1", "a2")
    room.leave("a2")
    room.arrive("a3")
    room.leave("a1")
    assert (room.admitted, room.rejected) == (["a1", "a3"], [])


def test_leaving_twice_or_after_a_rejection_has_no_effect() -> None:
    room = Room(Admission(1, 0))
    room.arrive("a1", "a2")
    room.leave("a2", "a2", "a1", "a1")
    assert (room.admission.running, room.admission.waiting) == (0, 0)
    room.arrive("a3")
    room.leave("a1", "a2")
    room.arrive("a4")
    assert room.rejected == ["a2", "a4"]


steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(0, 100)), max_size=100)


@given(st.integers(1, 4), st.integers(0, 6), steps)
def test_counts_are_exact_and_no_request_waits_while_a_slot_is_free(
    places: int, queue: int, steps: list[tuple[bool, str, int]]
) -> None:
    room = Room(Admission(places, queue))
    inside: list[str] = []
    for i, (arrives, caller, position) in enumerate(steps):
        if arrives:
            room.arrive(f"{caller}{i}")
            inside.append(f"{caller}{i}")
        elif inside:
            room.leave(inside.pop(position % len(inside)))
        inside = [name for name in inside if name not in room.rejected]
        running = [name for name in inside if name in room.admitted]
        assert room.admission.running == len(running) <= places
        assert room.admission.waiting == len(inside) - len(running) <= queue
        assert not room.admission.waiting or len(running) == places
    room.leave(*inside)
    assert (room.admission.running, room.admission.waiting, room.admission._callers) == (0, 0, {})


# ---- Estimated waiting time


def test_the_estimated_wait_follows_the_rate_at_which_slots_become_free() -> None:
    turnover = Turnover()
    assert turnover.wait(5) == 0
    for k in range(20):
        turnover.freed(now=2.0 * k, waiting=3)
    assert turnover.wait(5) == 10
    for k in range(100):
        turnover.freed(now=38 + 0.5 * k, waiting=3)
    assert 2.5 <= turnover.wait(5) < 2.6


def test_intervals_without_waiting_requests_are_not_measured() -> None:
    turnover = Turnover()
    turnover.freed(now=0, waiting=1)
    turnover.freed(now=1, waiting=0)
    turnover.freed(now=1000, waiting=1)
    turnover.freed(now=1001, waiting=1)
    assert turnover.wait(7) == 7
