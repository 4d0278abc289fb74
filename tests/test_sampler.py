"""Filters on four probabilities, and the whole sampler against one written for clarity."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_cli.decoding.sampler import draw, keep_top_k, keep_top_p, make_sampler

NONE_FORBIDDEN = np.array([], np.int64)
FOUR = [0.1, 0.4, 0.2, 0.3]


def keep(function, weights, limit):
    weights = np.array(weights, np.float64)
    ids, kept = function(np.arange(len(weights)), weights, limit)
    assert kept.tolist() == weights[ids].tolist()
    return ids.tolist()


def logits_of(probabilities):
    return np.log(np.array(probabilities, np.float32))


def plain_sample(logits, uniform, temperature, top_p, top_k, forbidden):
    """The sampler's twin: one sorted list of (id, probability)."""
    allowed = [i for i in range(len(logits)) if i not in forbidden]
    allowed.sort(key=lambda i: (-logits[i], i))
    if temperature == 0:
        return allowed[0]
    best = float(logits[allowed[0]])
    allowed = allowed[: top_k or None]
    weights = [math.exp((float(logits[i]) - best) / temperature) for i in allowed]
    n_kept = 1
    while n_kept < len(weights) and math.fsum(weights[:n_kept]) < top_p * math.fsum(weights):
        n_kept += 1
    kept = sorted(zip(allowed[:n_kept], weights[:n_kept], strict=True))
    target = uniform * math.fsum(weights[:n_kept])
    for token_id, weight in kept:
        target -= weight
        if target < 0:
            return token_id
    raise AssertionError


@pytest.mark.parametrize(
    ("top_k", "kept"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_largest_in_their_order(top_k, kept):
    assert keep(keep_top_k, FOUR, top_k) == kept


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_the_lower_ids_of_equals(top_k):
    assert keep(keep_top_k, [0.1, 0.3, 0.3, 0.3], top_k) == [1, 2, 3][:top_k]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 2, 3]),
        (0.89, [1, 2, 3]),
        (0.91, [0, 1, 2, 3]),
        (0.999999, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it_with_the_one_that_crosses(top_p, kept):
    assert keep(keep_top_p, FOUR, top_p) == kept


def test_top_p_that_is_met_exactly_needs_no_further_id():
    assert keep(keep_top_p, [0.25, 0.5, 0.125, 0.125], 0.75) == [0, 1]


def test_top_p_just_below_1_keeps_all_though_sums_round():
    assert keep(keep_top_p, [0.1] * 1000, 1 - 2**-53) == list(range(1000))


def test_top_p_keeps_the_lower_ids_of_equals():
    assert keep(keep_top_p, [0.25, 0.25, 0.25, 0.25], 0.6) == [0, 1, 2]


def test_top_p_does_not_depend_on_the_scale_of_the_weights():
    assert keep(keep_top_p, np.array(FOUR) * 1e6, 0.5) == keep(keep_top_p, FOUR, 0.5)


@given(
    st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=40), st.floats(1e-9, 1, exclude_max=True)
)
def test_top_p_keeps_enough_and_not_one_too_many(weights, top_p):
    kept = [weights[i] for i in keep(keep_top_p, weights, top_p)]
    needed, rounding = top_p * math.fsum(weights), 1e-12 * math.fsum(weights)
    assert math.fsum(kept) >= needed - rounding
    assert math.fsum(kept) - min(kept) <= needed + rounding


@pytest.mark.parametrize(
    ("uniform", "drawn"),
    [(0.0, 5), (0.0999, 5), (0.1001, 6), (0.4999, 6), (0.5001, 8), (1 - 2**-53, 9)],
)
def test_a_draw_falls_into_the_share_of_its_id(uniform, drawn):
    assert draw(np.array([5, 6, 7, 8, 9]), np.array([0.1, 0.4, 0, 0.2, 0.3]), uniform) == drawn


def test_a_draw_on_the_border_belongs_to_the_later_id_and_none_to_a_weight_of_zero():
    assert draw(np.array([5, 6]), np.array([0.25, 0.75]), 0.25) == 6
    assert draw(np.array([5, 6]), np.array([0.0, 1.0]), 0.0) == 6


@given(st.lists(st.floats(1e-300, 1e10), min_size=1, max_size=30))
def test_the_largest_draw_stays_inside(weights):
    assert draw(np.arange(len(weights)), np.array(weights), 1 - 2**-53) < len(weights)


def test_temperature_zero_takes_the_lowest_id_of_equal_best():
    sample = make_sampler(0.0, 0.95, 0, NONE_FORBIDDEN)
    assert sample(np.array([1, 5, 2, 5], np.float32), 0.99) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_raises_probabilities_to_its_inverse(temperature):
    sample = make_sampler(temperature, 1.0, 0, NONE_FORBIDDEN)
    n_draws = 2000
    draws = [sample(logits_of(FOUR), (i + 0.5) / n_draws) for i in range(n_draws)]
    shares = np.array(FOUR) ** (1 / temperature)
    shares /= shares.sum()
    assert np.bincount(draws, minlength=4) / n_draws == pytest.approx(shares, abs=1 / n_draws)


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy_without_a_warning(temperature):
    sample = make_sampler(temperature, 1.0, 0, NONE_FORBIDDEN)
    assert sample(np.array([1, 3, 2.9999, -1e30], np.float32), 0.999) == 1


def test_a_huge_temperature_draws_evenly_without_a_warning():
    sample = make_sampler(1e300, 1.0, 0, np.array([1]))
    logits = np.array([9, 9, -9, 0], np.float32)
    assert [sample(logits, u) for u in (0.0, 0.34, 0.67, 0.99)] == [0, 2, 3, 3]


def test_top_k_comes_before_top_p():
    # Of the two that top_k leaves, the best alone weighs 4/7: enough for 0.5, not for 0.6.
    assert make_sampler(1.0, 0.5, 2, NONE_FORBIDDEN)(logits_of(FOUR), 0.99) == 1
    assert make_sampler(1.0, 0.6, 2, NONE_FORBIDDEN)(logits_of(FOUR), 0.99) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forbidden_ids_are_never_returned_though_they_score_best(temperature):
    sample = make_sampler(temperature, 1.0, 0, np.array([1, 3]))
    logits = np.array([1, 50, 0.5, np.inf], np.float32)
    assert {sample(logits, u) for u in np.linspace(0, 0.999, 50)} <= {0, 2}


@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_the_logits_given_stay_unchanged(temperature):
    logits = np.array([1, 2, 3], np.float32)
    logits.flags.writeable = False
    assert make_sampler(temperature, 0.9, 2, np.array([2]))(logits, 0.5) == 1
    assert logits.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("logits", "named"),
    [([0, np.nan, 1], "nan for id 1"), ([0, 1, np.inf], "inf for id 2"), ([-np.inf] * 3, "-inf")],
)
def test_logits_that_are_not_finite_are_an_error(logits, named):
    with pytest.raises(ValueError, match=named):
        make_sampler(0.0, 1.0, 0, NONE_FORBIDDEN)(np.array(logits, np.float32), 0.5)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.2, 0.8, 1.5]),
    st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([[], [0], [2, 3, 19]]),
)
def test_sampler_equals_its_plain_twin(seed, temperature, top_p, top_k, forbidden):
    random = np.random.RandomState(seed)
    # Few distinct values, so that equal logits are common.
    logits = (random.randint(-12, 12, 20) / 3).astype(np.float32)
    uniform = random.random_sample()
    sample = make_sampler(temperature, top_p, top_k, np.array(forbidden, np.int64))
    expected = plain_sample(logits, uniform, temperature, top_p, top_k, forbidden)
    assert sample(logits, uniform) == expected


def test_ids_too_light_for_any_draw_are_all_that_is_left_out():
    """At the real vocabulary's size, against the twin that weighs every id."""
    random = np.random.RandomState(7)
    logits = (random.standard_normal(51200) * 3).astype(np.float32)
    for uniform in (0.0, 0.3, 0.9, 1 - 2**-53):
        sample = make_sampler(0.2, 1.0, 0, NONE_FORBIDDEN)
        weights = np.exp((logits.astype(np.float64) - logits.max()) / 0.2)
        assert sample(logits, uniform) == draw(np.arange(51200), weights, uniform)
