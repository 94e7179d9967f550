from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.access.admission import Admission, State, Ticket, Turnover
from openai_server.core.tiers import Urgency

URGENT, BACKGROUND = Urgency.URGENT, Urgency.BACKGROUND


@dataclass
class Room:
    """Records the names of admitted and rejected tickets. The name's first letter is the caller."""

    admission: Admission
    tickets: dict[str, Ticket] = field(default_factory=dict)
    admitted: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def arrive(self, *names: str, urgency: Urgency = Urgency.ORDINARY) -> None:
        for name in names:
            ticket = self.tickets[name] = Ticket(name[0], partial(self._decided, name), urgency)
            self.admission.arrive(ticket)

    def of(self, urgency: Urgency, state: State) -> list[str]:
        """Returns the names of these tickets."""
        tickets = self.tickets.items()
        return [name for name, ticket in tickets if ticket.urgency is urgency and ticket.state is state]

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


# ---- Classes


def test_urgent_requests_get_the_next_slot() -> None:
    room = Room(Admission(1, 10))
    room.arrive("a1", "a2", "b1")
    room.arrive("c1", "c2", urgency=URGENT)
    room.leave("a1")
    room.leave("c1")
    room.leave("c2")
    assert room.admitted == ["a1", "c1", "c2", "b1"]


def test_background_work_leaves_a_quarter_of_the_slots_free() -> None:
    room = Room(Admission(8, 10))
    room.arrive(*(f"a{i}" for i in range(8)), urgency=BACKGROUND)
    assert (room.admission.running, room.admission.waiting, room.admission.waiting_for_any) == (6, 2, 0)
    room.arrive("b1", "b2")
    assert room.admitted[6:] == ["b1", "b2"]
    room.leave("a0", "a1")  # six others run
    assert room.admission.running == 6
    room.leave("b1")
    assert room.admitted[8:] == ["a6"]


@pytest.mark.parametrize(("slots", "in_background"), [(1, 1), (2, 1), (3, 2), (4, 3), (7, 6), (1024, 768), (0, 2000)])
def test_background_work_has_slots_however_few_there_are(slots: int, in_background: int) -> None:
    room = Room(Admission(slots, 2000))
    room.arrive(*(f"a{i}" for i in range(2000)), urgency=BACKGROUND)
    assert room.admission.running == in_background


def test_background_work_waits_while_others_have_all_slots() -> None:
    room = Room(Admission(1, 10))
    room.arrive("a1", "b1")
    room.arrive("c1", urgency=BACKGROUND)
    room.leave("a1")
    assert room.admitted == ["a1", "b1"]
    room.leave("b1")
    assert room.admitted == ["a1", "b1", "c1"]


def test_background_work_is_dropped_first() -> None:
    room = Room(Admission(1, 3))
    room.arrive("a1")
    room.arrive("b1", "b2", "c1", "c2", urgency=BACKGROUND)
    assert room.rejected == ["c2"]  # b waits with two, c would too
    room.arrive("a2", "a3")
    assert room.rejected == ["c2", "b2", "b1"]
    room.arrive("a4", urgency=URGENT)
    assert room.rejected == ["c2", "b2", "b1", "c1"]
    room.arrive("c3", urgency=BACKGROUND)
    assert room.rejected[4:] == ["c3"]


def test_an_urgent_request_does_not_push_out_the_few_of_another_caller() -> None:
    room = Room(Admission(1, 2))
    room.arrive("a1", "b1", "b2")
    room.arrive("c1", urgency=URGENT)
    assert room.rejected == ["b2"]
    room.arrive("c2", urgency=URGENT)
    assert room.rejected == ["b2", "c2"]


def test_callers_share_the_slots_of_background_work() -> None:
    room = Room(Admission(4, 10))
    room.arrive("a1", "a2", "a3", "a4", "a5", "b1", urgency=BACKGROUND)
    room.arrive("b2", "b3")
    assert room.admitted == ["a1", "a2", "a3", "b2"]
    room.leave("b2")
    assert room.admitted[4:] == ["b3"]
    room.leave("a1", "a2")
    assert room.admitted[5:] == ["b1"]


classes = st.sampled_from(Urgency)
classed_steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), classes, st.integers(0, 100)), max_size=120)


@given(st.integers(1, 9), st.integers(0, 6), classed_steps)
def test_classes_keep_their_bounds(places: int, queue: int, steps: list[tuple[bool, str, Urgency, int]]) -> None:
    """Whatever happens, others don't wait for background work beyond its part of the slots, nor does their queue
    become shorter by it, and no class waits while it could run."""
    room = Room(Admission(places, queue))
    in_background = places - max(1, places // 4) if places > 1 else 1
    inside: list[str] = []
    for i, (arrives, caller, urgency, position) in enumerate(steps):
        if arrives:
            name = f"{caller}{i}"
            was_free = room.admission.running < places
            waiting_for_any = room.admission.waiting_for_any
            dropped_before = set(room.rejected)
            room.arrive(name, urgency=urgency)
            inside.append(name)
            if urgency is not BACKGROUND:
                assert name in room.admitted or not was_free, "a free slot is taken at once"
                assert name not in room.rejected or waiting_for_any == queue
            for dropped in set(room.rejected) - dropped_before - {name}:
                assert room.tickets[dropped].urgency >= urgency, "nothing more urgent is dropped"
        elif inside:
            name = inside[position % len(inside)]
            running_in_background = len(room.of(BACKGROUND, State.RUNNING))
            room.leave(inside.pop(position % len(inside)))
            if len(room.of(BACKGROUND, State.RUNNING)) > running_in_background:
                assert room.admission.running <= in_background, "it takes none of the last slots"
        inside = [name for name in inside if name not in room.rejected]
        running = [name for name in inside if name in room.admitted]
        waiting = {urgency: room.of(urgency, State.WAITING) for urgency in Urgency}
        assert room.admission.running == len(running) <= places
        assert room.admission.waiting == sum(map(len, waiting.values())) <= queue
        assert room.admission.waiting_for_any == len(waiting[URGENT]) + len(waiting[Urgency.ORDINARY])
        assert not room.admission.waiting_for_any or len(running) == places
        assert not waiting[BACKGROUND] or len(running) >= in_background
        assert len(room.of(BACKGROUND, State.RUNNING)) <= in_background
    room.leave(*inside)
    assert (room.admission.running, room.admission.waiting) == (0, 0)
    assert not any(of_class.callers for of_class in room.admission._classes)


@given(st.integers(1, 4), classed_steps)
def test_a_slot_goes_to_the_most_urgent_class(places: int, steps: list[tuple[bool, str, Urgency, int]]) -> None:
    room = Room(Admission(places, 1000))
    inside: list[str] = []
    for i, (arrives, caller, urgency, position) in enumerate(steps):
        if arrives:
            room.arrive(f"{caller}{i}", urgency=urgency)
            inside.append(f"{caller}{i}")
        elif inside:
            n_admitted = len(room.admitted)
            room.leave(inside.pop(position % len(inside)))
            for name in room.admitted[n_admitted:]:
                above = [room.of(higher, State.WAITING) for higher in Urgency if higher < room.tickets[name].urgency]
                assert not any(above)


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
    assert (room.admission.running, room.admission.waiting) == (0, 0)
    assert not any(of_class.callers for of_class in room.admission._classes)


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
