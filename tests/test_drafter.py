"""How many ids are drafted: as many as guesses that hold and the cost of a step make worthwhile."""

import pytest

from codegen_cli.decoding.drafter import Drafter, best_length
from codegen_cli.decoding.step_costs import StepCosts

REPEATED = [1, 2, 3, 4, 5] * 8


class TimedDrafter:
    """A Drafter of a text alone, told what its steps cost."""

    def __init__(self, ids, most):
        self._drafter, self._costs = Drafter(ids, most), StepCosts()
        self.extend = self._drafter.extend

    def draft(self, room):
        return self._drafter.draft(room, self._costs.id_cost(1))

    def checked(self, n_drafted, n_accepted, seconds):
        self._costs.learn(1 + n_drafted, seconds)
        self._drafter.checked(n_drafted, n_accepted)


@pytest.mark.parametrize(
    ("hit_rate", "cost", "length"),
    [
        (0.9, 0.0, 8),  # what costs nothing is always worth it
        (0.9, 0.05, 8),
        (0.5, 0.2, 1),  # 1.5 / 1.2 = 1.250; two: 1.75 / 1.4 = 1.250
        (0.6, 0.2, 2),  # 1.6 / 1.2 = 1.333; two: 1.96 / 1.4 = 1.400; three: 2.176 / 1.6 = 1.36
        (0.3, 0.3, 0),  # 1.3 / 1.3 = 1
        (0.99, 1.0, 0),  # a second id costs a second step
        (0.0, 0.0, 0),
    ],
)
def test_the_length_gives_the_most_ids_a_second(hit_rate, cost, length):
    assert best_length(hit_rate, cost, most=8) == length


def test_the_length_is_the_best_of_all():
    for hit_rate in (0.1, 0.35, 0.5, 0.7, 0.95):
        for cost in (0.01, 0.05, 0.13, 0.4):
            rates = [
                sum(hit_rate**i for i in range(length + 1)) / (1 + length * cost)
                for length in range(13)
            ]
            assert rates[best_length(hit_rate, cost, most=12)] == max(rates)


def test_nothing_is_drafted_before_a_single_step_was_timed():
    drafter = TimedDrafter(REPEATED, most=8)
    assert drafter.draft(100) == []
    drafter.checked(0, 0, 1.0)
    assert drafter.draft(100)


def test_a_draft_goes_on_as_the_text_did():
    drafter = drafter_after_single_steps([1, 2, 3, 4, 9, 1, 2])
    drafter.extend([3])
    draft = drafter.draft(100)
    assert draft == [4, 9, 1][: len(draft)] != []


def test_a_draft_has_neither_more_ids_than_room_nor_than_most():
    assert len(drafter_after_single_steps(REPEATED).draft(1)) == 1
    assert len(drafter_after_single_steps(REPEATED, most=1).draft(100)) == 1
    assert drafter_after_single_steps(REPEATED).draft(0) == []
    assert drafter_after_single_steps(REPEATED, most=0).draft(100) == []


def test_drafts_grow_while_they_hold_and_cost_little():
    drafter = drafter_after_single_steps(REPEATED)
    lengths = draft_lengths(drafter, 20, hold=True, seconds=lambda n: 1 + 0.02 * n)
    assert lengths[0] < 8
    assert lengths[-1] == 8


def test_drafts_end_where_they_do_not_hold_and_are_tried_again():
    drafter = drafter_after_single_steps(REPEATED)
    lengths = draft_lengths(drafter, 300, hold=False, seconds=lambda n: 1 + 0.2 * n)
    tries = [i for i, length in enumerate(lengths) if length]
    assert tries[0] == 0
    assert max(tries[:10]) < 10  # the first come one after the other
    assert 3 <= len([i for i in tries if i >= 20]) <= 5  # then one in 64 steps
    assert {lengths[i] for i in tries if i >= 20} == {1}


def test_drafts_end_where_an_id_costs_a_step():
    drafter = drafter_after_single_steps(REPEATED)
    lengths = draft_lengths(drafter, 60, hold=True, seconds=lambda n: 1.0 + n)
    assert lengths[0] > 0
    assert set(lengths[3:]) == {0}


def test_one_slow_step_changes_little():
    def seconds(n):
        seconds.n_steps += 1
        return 1000.0 if seconds.n_steps == 10 else 1 + 0.02 * n

    seconds.n_steps = 0
    drafter = drafter_after_single_steps(REPEATED)
    assert draft_lengths(drafter, 30, hold=True, seconds=seconds)[-1] == 8


def test_a_clock_that_stands_still_does_no_harm():
    drafter = TimedDrafter(REPEATED, most=8)
    drafter.checked(0, 0, 0.0)
    assert draft_lengths(drafter, 20, hold=True, seconds=lambda n: 0.0)[-1] > 0


def drafter_after_single_steps(ids, most=8):
    drafter = TimedDrafter(ids, most)
    for _ in range(3):
        drafter.checked(0, 0, 1.0)
    return drafter


def draft_lengths(drafter, n_steps, *, hold, seconds):
    """Return the lengths of n_steps drafts, all of whose ids hold, or none."""
    lengths = []
    for _ in range(n_steps):
        n_drafted = len(drafter.draft(100))
        drafter.checked(n_drafted, n_drafted if hold else 0, seconds(n_drafted))
        lengths.append(n_drafted)
    return lengths


def test_an_id_costs_more_the_more_texts_share_a_step():
    costs = StepCosts()
    for n_ids in (1, 2, 4, 8):
        costs.learn(n_ids, 1 + 0.1 * (n_ids - 1))
    found = [costs.id_cost(n) for n in (1, 2, 4, 8)]
    assert found == pytest.approx([0.1, 0.2 / 1.1, 0.4 / 1.3, 0.8 / 1.7])
    assert Drafter(REPEATED, 8).draft(100, 0.1)
    assert Drafter(REPEATED, 8).draft(100, 0.99) == []


def test_costs_are_not_known_while_only_steps_of_more_texts_were_seen():
    costs = StepCosts()
    assert costs.id_cost(4) is None
    costs.learn(4, 1.0)
    assert costs.id_cost(3) is None
    assert costs.id_cost(4) is not None


def test_what_was_not_seen_for_long_is_forgotten():
    costs = StepCosts()
    costs.learn(1, 1.0)
    for _ in range(600):
        costs.learn(8, 8.0)
    assert costs.id_cost(1) is None
    assert costs.seconds(8) == 8.0
