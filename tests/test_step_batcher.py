"""Whatever order requests come, wait, leave and fail in: each gets its own picture, each ends once."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import Engine
from stepping import Asked, Clock, step_to_end
from torch import Tensor

from diffusion.errors import Cancelled, EngineError, Expired, QueueFull, Stopping
from diffusion.jobs import Priority
from diffusion.pending import INTERACTIVE_TURNS
from diffusion.step_batcher import KEPT_GROUPS, REMEMBER_SECONDS, REMEMBERED, Bounds, StepBatcher
from families import InvalidRequest
from families.control import PRIORITIES

ENDS = ("requests_finished", "requests_cancelled", "requests_expired", "requests_failed")
BOUNDS = Bounds(max_rows=4, max_running=6, max_pending=5)
SPECS = st.tuples(st.integers(0, 99), st.integers(1, 6), st.integers(1, 2), st.sampled_from([3, 5]))


ASKED = st.builds(
    Asked,
    st.lists(SPECS, min_size=1, max_size=3),
    st.sampled_from(Priority),
    st.sampled_from([math.inf, math.inf, 3.0, 12.0]),
)
EVENTS = st.lists(st.one_of(ASKED, st.integers(0, 9), st.just("step"), st.just("step")), max_size=30)


def play(events: list[object], batcher: StepBatcher, clock: Clock) -> list[Asked]:
    """A job is submitted, a number cancels that one of those submitted; a step takes a second."""
    taken: list[Asked] = []
    for event in events:
        if isinstance(event, Asked):
            try:
                batcher.submit(event.job)
                taken.append(event)
            except QueueFull:
                assert batcher.pending == BOUNDS.max_pending
        elif event == "step":
            batcher.step()
            clock.now += 1
            assert batcher.running <= BOUNDS.max_running and batcher.pending <= BOUNDS.max_pending
        elif isinstance(event, int) and event < len(taken):
            assert batcher.cancel(taken[event].job.key) == (not taken[event].endings)
    return taken


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_any_order_of_arrivals_and_leavings_gives_everyone_the_picture_of_its_solo_run(
    events: list[object],
) -> None:
    engine, clock = Engine(), Clock()
    batcher = StepBatcher(engine, BOUNDS, clock)
    taken = play(events, batcher, clock)
    step_to_end(batcher)
    assert all(asked.right for asked in taken)
    assert batcher.counts["requests_started"] == len(taken) == sum(batcher.counts[end] for end in ENDS)
    assert max(engine.batches, default=0) <= BOUNDS.max_rows
    assert batcher.counts["engine_calls"] == len(engine.calls)
    assert batcher.counts["engine_rows"] == sum(engine.batches)
    assert not batcher._groups


DIFFERENT = st.lists(SPECS, min_size=1, max_size=5, unique_by=lambda spec: spec[0])


@settings(max_examples=60, deadline=None)
@given(DIFFERENT, st.integers(0, 4))
def test_a_call_that_fails_ends_only_the_guilty(specs: list[tuple[int, int, int, int]], place: int) -> None:
    engine, asked = Engine(), [Asked([spec]) for spec in specs]
    guilty = asked[place % len(asked)]
    curse = guilty.job.samples[0].constants()["text"][0]

    def failing(inputs: Mapping[str, Tensor]) -> Tensor:
        if any(torch.equal(row, curse) for row in inputs["text"]):
            raise EngineError("out of memory")
        return engine(inputs)

    batcher = StepBatcher(failing, BOUNDS)
    for one in asked:
        batcher.submit(one.job)
    step_to_end(batcher)
    assert all(one.right for one in asked)
    assert [one for one in asked if isinstance(one.endings[0], EngineError)] == [guilty]


def test_a_newcomer_is_in_the_next_call_and_a_cancelled_one_is_not() -> None:
    engine = Engine()
    batcher = StepBatcher(engine, BOUNDS)
    first, second = Asked([(1, 6, 1, 3)]), Asked([(2, 6, 1, 3)])
    batcher.submit(first.job)
    batcher.step()
    batcher.submit(second.job)
    batcher.step()
    assert batcher.cancel(first.job.key)
    batcher.step()
    assert engine.batches == [1, 2, 1]
    assert isinstance(first.endings[0], Cancelled) and first.job.samples[0].step == 2
    assert not batcher.cancel(first.job.key)


def test_a_job_that_was_cancelled_on_its_way_ends_when_it_comes() -> None:
    engine = Engine()
    batcher, early, again = StepBatcher(engine, BOUNDS), Asked([(1, 6, 1, 3)]), Asked([(1, 6, 1, 3)])
    assert not batcher.cancel(early.job.key)
    batcher.submit(early.job)
    batcher.step()
    assert isinstance(early.endings[0], Cancelled) and engine.calls == []
    again.job.key = early.job.key
    batcher.submit(again.job)
    step_to_end(batcher)
    assert again.right and again.endings == [None]
    clock = batcher.clock = Clock()
    batcher.cancel("late")
    clock.now = REMEMBER_SECONDS + 1
    again = Asked([(1, 6, 1, 3)])
    again.job.key = "late"
    batcher.submit(again.job)
    step_to_end(batcher)
    assert again.endings == [None]
    for number in range(REMEMBERED + 1):
        batcher.cancel(f"another {number}")
    assert len(batcher._unwanted) == REMEMBERED


def test_a_client_that_left_and_a_deadline_that_passed_end_a_job_before_the_next_call() -> None:
    engine, clock = Engine(), Clock()
    batcher = StepBatcher(engine, BOUNDS, clock)
    gone, late = Asked([(1, 6, 1, 3)]), Asked([(2, 6, 1, 3)], deadline=2.0)
    gone.job.left = lambda: len(engine.calls) == 1
    for asked in (gone, late):
        batcher.submit(asked.job)
    batcher.step()
    batcher.step()
    clock.now = 2.0
    batcher.step()
    assert engine.batches == [2, 1]
    assert isinstance(gone.endings[0], Cancelled)
    assert isinstance(late.endings[0], Expired) and "at step 2 of 6" in str(late.endings[0])


def test_a_deadline_may_pass_while_waiting() -> None:
    clock = Clock()
    batcher = StepBatcher(Engine(), Bounds(4, max_running=1), clock)
    running, waiting = Asked([(1, 6, 1, 3)]), Asked([(2, 6, 1, 3)], deadline=1.0)
    for asked in (running, waiting):
        batcher.submit(asked.job)
    batcher.step()
    assert batcher.progress(waiting.job).state == "pending"
    clock.now = 1.0
    batcher.step()
    assert "at step 0 of 6" in str(waiting.endings[0])


def test_a_full_queue_refuses_at_once_and_counts_it() -> None:
    batcher = StepBatcher(Engine(), Bounds(4, max_running=1, max_pending=2))
    for seed in range(2):
        batcher.submit(Asked([(seed, 2, 1, 3)]).job)
    with pytest.raises(QueueFull, match="all 2 places in the queue are taken"):
        batcher.submit(Asked([(3, 2, 1, 3)]).job)
    assert batcher.counts["requests_refused"] == 1


@pytest.mark.parametrize("specs", [[(1, 2, 5, 3)], [(seed, 2, 1, 3) for seed in range(7)]])
def test_a_job_that_can_never_run_is_refused(specs: list[tuple[int, int, int, int]]) -> None:
    with pytest.raises(ValueError, match=r"5 rows; a call takes 4|7 samples; 6 run at once"):
        StepBatcher(Engine(), BOUNDS).submit(Asked(specs).job)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("patient, eager", [(3, 5), (5, 3), (3, 3)])
def test_batch_work_is_slowed_but_never_starved(patient: int, eager: int, samples: int) -> None:
    """However many interactive requests of any shape keep coming, and even if it needs all places at once."""
    batcher = StepBatcher(Engine(), Bounds(max_rows=1, max_running=2, max_pending=9))
    for seed in range(2):
        batcher.submit(Asked([(seed, 3 + seed, 1, eager)]).job)
    batcher.step()
    slow = Asked([(place, 6, 1, patient) for place in range(samples)], Priority.BATCH)
    batcher.submit(slow.job)
    for seed in range(200):
        while batcher.pending < 5:
            batcher.submit(Asked([(seed, 2, 1, eager)]).job)
        batcher.step()
        if slow.endings:
            break
    assert slow.right
    assert 6 <= seed <= (INTERACTIVE_TURNS + 2) * 10


def test_interactive_requests_overtake_batch_work_that_waits() -> None:
    batcher = StepBatcher(Engine(), Bounds(max_rows=1, max_running=2, max_pending=20))
    work = [Asked([(seed, 8, 1, 3)], Priority.BATCH) for seed in range(6)]
    for asked in work:
        batcher.submit(asked.job)
    batcher.step()
    urgent = Asked([(9, 2, 1, 3)])
    batcher.submit(urgent.job)
    while not urgent.endings:
        batcher.step()
    assert not any(asked.endings for asked in work)


def test_nobody_waits_longer_than_it_takes_to_step_all_others() -> None:
    batcher = StepBatcher(Engine(), Bounds(max_rows=2, max_running=8))
    for width, count in ((3, 5), (5, 1), (7, 2)):
        for seed in range(count):
            batcher.submit(Asked([(seed, 30, 1, width)]).job)
    batcher.step()
    waited, steps = dict.fromkeys(batcher._running, 0), {slot: slot.sample.step for slot in batcher._running}
    for _ in range(40):
        batcher.step()
        waited = {slot: 0 if slot.sample.step > steps[slot] else waited[slot] + 1 for slot in waited}
        steps = {slot: slot.sample.step for slot in waited}
        assert max(waited.values()) < 8


def test_joined_inputs_are_kept_for_groups_that_come_again_and_dropped_with_their_members() -> None:
    engine = Engine()
    batcher = StepBatcher(engine, BOUNDS)
    for width in (3, 3, 5, 5):
        batcher.submit(Asked([(width, 6, 1, width)]).job)
    for _ in range(4):
        batcher.step()
    pointers = [call["text"].data_ptr() for call in engine.calls]
    assert pointers[0] == pointers[2] != pointers[1] == pointers[3]
    assert len(batcher._groups) == KEPT_GROUPS
    step_to_end(batcher)
    assert not batcher._groups


def test_progress_tells_how_far_and_how_long() -> None:
    clock = Clock()
    batcher = StepBatcher(Engine(), BOUNDS, clock)
    asked = Asked([(1, 4, 1, 3), (2, 6, 1, 3)])
    batcher.submit(asked.job)
    assert batcher.find(asked.job.key) is asked.job
    assert batcher.progress(asked.job).eta_seconds is None
    for _ in range(3):
        batcher.step()
        clock.now += 2
    told = batcher.progress(asked.job)
    assert (told.state, told.step, told.steps, told.seconds, told.eta_seconds) == ("running", 3, 6, 6.0, 6.0)
    step_to_end(batcher)
    assert batcher.find(asked.job.key) is None


def test_close_ends_the_wait_and_abandon_ends_the_jobs() -> None:
    batcher, asked = StepBatcher(Engine(), BOUNDS), Asked([(1, 4, 1, 3)])
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(batcher.wait()))
    waiting.start()
    batcher.close()
    waiting.join()
    with pytest.raises(Stopping):
        batcher.submit(asked.job)
    batcher = StepBatcher(Engine(), BOUNDS)
    batcher.submit(asked.job)
    batcher.abandon(Stopping("the server is stopping"))
    assert answers == [False] and isinstance(asked.endings[0], Stopping)


def test_an_unknown_priority_is_refused_with_the_choices() -> None:
    assert [Priority.named(name) for name in PRIORITIES] == list(Priority)
    with pytest.raises(InvalidRequest, match="'urgent' is unknown; choices: interactive, batch"):
        Priority.named("urgent")
