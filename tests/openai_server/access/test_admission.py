from dataclasses import dataclass, field
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from openai_server.access.admission import Admission, State, Ticket, Turnover


@dataclass
class Room:
    """Names of tickets by what was decided; `x2` is of caller x."""

    admission: Admission
    tickets: dict[str, Ticket] = field(default_factory=dict)
    admitted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def arrive(self, *names: str) -> None:
        for name in names:
            ticket = self.tickets[name] = Ticket(name[0], partial(self._decided, name))
            self.admission.arrive(ticket)

    def leave(self, *names: str) -> None:
        for name in names:
            self.admission.leave(self.tickets[name])

    def _decided(self, name: str) -> None:
        assert name not in self.admitted + self.refused, "decided twice"
        running = self.tickets[name].state is State.RUNNING
        (self.admitted if running else self.refused).append(name)


def test_so_many_run_so_many_wait_the_rest_is_refused_at_once() -> None:
    room = Room(Admission(2, 2))
    room.arrive("a1", "a2", "a3", "a4", "a5")
    assert (room.admitted, room.refused) == (["a1", "a2"], ["a5"])
    room.leave("a2")
    assert room.admitted == ["a1", "a2", "a3"]
    room.leave("a1", "a3")
    assert room.admitted == ["a1", "a2", "a3", "a4"]


def test_no_limit() -> None:
    room = Room(Admission(0, 0))
    names = [f"a{i}" for i in range(1000)]
    room.arrive(*names)
    assert room.admitted == names
    room.leave(*names)
    assert room.admission.running == 0


def test_no_queue() -> None:
    room = Room(Admission(1, 0))
    room.arrive("a1", "b1")
    assert (room.admitted, room.refused) == (["a1"], ["b1"])


def test_a_flood_does_not_starve_another_caller() -> None:
    room = Room(Admission(1, 10))
    room.arrive("a1", "a2", "a3", "a4", "b1", "b2")
    room.leave("a1")
    assert room.admitted == ["a1", "b1"]  # whose turn was never
    room.leave("b1")
    assert room.admitted[2:] == ["a2"]  # they alternate
    room.leave("a2")
    assert room.admitted[3:] == ["b2"]


def test_who_has_the_fewest_running_is_next() -> None:
    room = Room(Admission(4, 10))
    room.arrive("a1", "a2", "a3", "b1", "a4", "a5", "b2")
    room.leave("a1")
    assert room.admitted[4:] == ["b2"]
    room.leave("b1", "b2")
    assert room.admitted[5:] == ["a4", "a5"]


def test_a_newcomer_takes_the_place_of_the_last_of_a_flood() -> None:
    room = Room(Admission(1, 3))
    room.arrive("a1", "a2", "a3", "a4", "a5", "b1")
    assert room.refused == ["a5", "a4"]
    room.arrive("b2")  # b has one, a two: with another one it would have as many
    assert room.refused == ["a5", "a4", "a3"]
    room.arrive("b3", "a6")
    assert room.refused == ["a5", "a4", "a3", "b3", "a6"]


def test_who_leaves_the_queue_makes_room() -> None:
    room = Room(Admission(1, 1))
    room.arrive("a1", "a2")
    room.leave("a2")
    room.arrive("a3")
    room.leave("a1")
    assert (room.admitted, room.refused) == (["a1", "a3"], [])


def test_leaving_twice_or_refused_is_nothing() -> None:
    room = Room(Admission(1, 0))
    room.arrive("a1", "a2")
    room.leave("a2", "a2", "a1", "a1")
    assert (room.admission.running, room.admission.waiting) == (0, 0)
    room.arrive("a3")
    room.leave("a1", "a2")
    room.arrive("a4")
    assert room.refused == ["a2", "a4"]


steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(0, 100)), max_size=100)


@given(st.integers(1, 4), st.integers(0, 6), steps)
def test_nothing_is_lost_and_nobody_waits_for_a_free_place(
    places: int, queue: int, steps: list[tuple[bool, str, int]]
) -> None:
    room = Room(Admission(places, queue))
    inside: list[str] = []
    for i, (comes, caller, which) in enumerate(steps):
        if comes:
            room.arrive(f"{caller}{i}")
            inside.append(f"{caller}{i}")
        elif inside:
            room.leave(inside.pop(which % len(inside)))
        inside = [name for name in inside if name not in room.refused]
        running = [name for name in inside if name in room.admitted]
        assert room.admission.running == len(running) <= places
        assert room.admission.waiting == len(inside) - len(running) <= queue
        assert not room.admission.waiting or len(running) == places
    room.leave(*inside)
    assert (room.admission.running, room.admission.waiting, room.admission._callers) == (0, 0, {})


# ---- How long it takes


def test_how_long_those_who_wait_will_take_follows_how_fast_places_become_free() -> None:
    turnover = Turnover()
    assert turnover.wait(5) == 0
    for k in range(20):
        turnover.freed(now=2.0 * k, waiting=3)
    assert turnover.wait(5) == 10
    for k in range(100):
        turnover.freed(now=38 + 0.5 * k, waiting=3)
    assert 2.5 <= turnover.wait(5) < 2.6


def test_times_in_which_nobody_waited_say_nothing() -> None:
    turnover = Turnover()
    turnover.freed(now=0, waiting=1)
    turnover.freed(now=1, waiting=0)
    turnover.freed(now=1000, waiting=1)
    turnover.freed(now=1001, waiting=1)
    assert turnover.wait(7) == 7
