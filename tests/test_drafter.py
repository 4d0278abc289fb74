"""How many ids are drafted: as many as guesses that hold and the cost of a step make worthwhile."""

import pytest

from codegen_cli.decoding.drafter import Drafter, best_length

REPEATED = [1, 2, 3, 4, 5] * 8


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
    drafter = Drafter(REPEATED, most=8)
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
    drafter = Drafter(REPEATED, most=8)
    drafter.checked(0, 0, 0.0)
    assert draft_lengths(drafter, 20, hold=True, seconds=lambda n: 0.0)[-1] > 0


def drafter_after_single_steps(ids, most=8):
    drafter = Drafter(ids, most)
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
