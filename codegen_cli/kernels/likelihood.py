"""A token's logits of one span of the vocabulary -> all that its log-probabilities need of them.

A span is summed up as soon as it is computed, relative to its own largest logit, so that no row of
logits need ever be whole; engine_cpu.log_probabilities puts the spans together. A span is
step_table.SPAN rows of lm_head whatever the threads do, and is added in one order.

The streaming softmax of Milakov & Gimelshein, "Online normalizer calculation for softmax"
(arXiv:1805.02867), with a span where they have a single value.
"""

import numpy as np
from numba import float32, int32, njit

from codegen_cli.kernels.pointwise import exp
from codegen_cli.kernels.vectors import (
    every_lane,
    first_lanes,
    lane_numbers,
    larger,
    largest_lane,
    load_f32,
    store_f32,
    sum_lanes,
    where_less,
)
from quantize.description.formats import LANES

_MINUS_INFINITY = float32(-np.inf)
_LOWEST = float32(np.finfo(np.float32).min)

# What exp takes at the least: e**-87 is too small to show in a sum that has a 1.
_SMALLEST_EXPONENT = float32(-87)

_compile = njit(nogil=True, error_model="numpy")


@_compile
def summarize(summary, logits, bias, never, first, end, target):
    """Sum up rows first .. end-1 of the vocabulary for one token.

    summary                             a SUMMARY record of the step table, overwritten
    logits   [>= end padded to 16]  f32  lm_head's products; from `first` on their bias is added
    bias     [>= end padded to 16]  f32
    never    [>= end padded to 16]  f32  -infinity for ids that cannot be the likeliest, else 0
    target                          i64  an id; its logit is written where it is one of these

    A logit that is not a number makes `sum` none; the other fields pass it over.
    """
    most = _add_bias(summary, logits, bias, never, first, end)
    summary.largest = most
    _add_powers(summary, logits, first, end, most)
    if first <= target < end:
        summary.target = logits[target]


@_compile
def _add_bias(summary, logits, bias, never, first, end):
    """logits += bias, -infinity past their end; write the likeliest; return the largest.

    Rows are counted down from 0, so that of equal logits the first row has the largest number.
    """
    largest = likeliest = every_lane(_MINUS_INFINITY)
    here = every_lane(float32(0)) - lane_numbers()
    row = here
    for i in range(first, end, LANES):
        biased = load_f32(logits, i) + load_f32(bias, i)
        biased = first_lanes(biased, int32(end - i), _MINUS_INFINITY)
        store_f32(logits, i, biased)
        largest = larger(biased, largest)
        candidate = biased + load_f32(never, i)
        row = where_less(likeliest, candidate, here, row)
        likeliest = larger(candidate, likeliest)
        here = here - every_lane(float32(LANES))
    best = largest_lane(likeliest)
    row = where_less(likeliest, every_lane(best), every_lane(_MINUS_INFINITY), row)
    summary.likeliest = best
    summary.likeliest_id = first - np.int64(largest_lane(row))
    return largest_lane(largest)


@_compile
def _add_powers(summary, logits, first, end, largest):
    """Write the sum of e**(logit - largest) over all but the largest, and how many these are.

    Apart, as a sum that begins with 1 would round what a sure model gives to all other ids.
    """
    subtracted = every_lane(max(largest, _LOWEST))  # of all -infinity nothing could be subtracted
    zero, one = every_lane(float32(0)), every_lane(float32(1))
    smallest = every_lane(_SMALLEST_EXPONENT)
    total = n_largest = zero
    for i in range(first, end, LANES):
        exponent = load_f32(logits, i) - subtracted
        is_largest = where_less(exponent, zero, zero, one)
        # In this order `larger` lets through what is not a number. e**0 is 1 to the bit.
        total = total + (exp(larger(smallest, exponent)) - is_largest)
        n_largest = n_largest + is_largest
    summary.n_largest = sum_lanes(n_largest)
    summary.sum = sum_lanes(total)
