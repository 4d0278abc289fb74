"""Windows over a long text: each id once, with enough before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_cli.scoring.windows import Window, stride_of, windows


def test_a_text_that_fits_is_one_window():
    assert list(windows(8, 8)) == [Window(0, 0, 8)]
    assert list(windows(1, 8)) == [Window(0, 0, 1)]
    assert list(windows(0, 8)) == []


def test_a_longer_text_moves_on_by_half_a_context():
    assert list(windows(15, 8)) == [Window(0, 0, 8), Window(4, 8, 12), Window(8, 12, 15)]
    assert list(windows(9, 5)) == [Window(0, 0, 5), Window(2, 5, 7), Window(4, 7, 9)]


@pytest.mark.parametrize("n_positions", [1, 2, 3, 2048])
def test_the_stride_is_half_a_context_but_never_nothing(n_positions):
    assert stride_of(n_positions) == max(1, n_positions // 2)


@given(n_ids=st.integers(0, 500), n_positions=st.integers(1, 40))
def test_every_id_is_new_once_after_half_a_context(n_ids, n_positions):
    found = list(windows(n_ids, n_positions))
    assert [i for w in found for i in range(w.first_new, w.end)] == list(range(n_ids))
    for window in found:
        assert 0 < window.end - window.start <= n_positions
        assert window.start == 0 or 2 * (window.first_new + 1 - window.start) >= n_positions
