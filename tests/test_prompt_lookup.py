"""The longest and latest place where a text read as it ends, and what is copied from there."""

from hypothesis import given
from hypothesis import strategies as st

from codegen_cli.decoding.prompt_lookup import Match, PromptLookup


def match_of(ids, longest=4):
    return PromptLookup(ids, longest).longest_match()


def test_a_longer_match_counts_more_than_a_later_one():
    assert match_of([1, 2, 3, 9, 3, 8, 1, 2, 3]) == Match(n_ids=3, follower=3)


def test_of_equal_matches_the_latest_counts():
    assert match_of([5, 1, 5, 2, 5]) == Match(n_ids=1, follower=3)


def test_a_match_is_no_longer_than_asked_for():
    assert match_of([1, 2, 3, 4, 1, 2, 3, 4]) == Match(n_ids=4, follower=4)
    assert match_of([1, 2, 3, 4, 1, 2, 3, 4], longest=2) == Match(n_ids=2, follower=4)


def test_a_text_without_repetition_has_no_match():
    assert match_of([]) is None
    assert match_of([1]) is None
    assert match_of([1, 2, 3]) is None


def test_a_copy_goes_on_with_itself():
    lookup = PromptLookup([7, 1, 2, 3], 4)
    assert lookup.copy(begin=1, n_ids=2) == [1, 2]
    assert lookup.copy(begin=2, n_ids=5) == [2, 3, 2, 3, 2]
    assert lookup.copy(begin=3, n_ids=3) == [3, 3, 3]
    assert lookup.copy(begin=1, n_ids=0) == []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_the_index_finds_what_a_search_finds(ids, longest):
    def search():
        for n_ids in range(min(longest, len(ids) - 1), 0, -1):
            for follower in range(len(ids) - 1, n_ids - 1, -1):
                if ids[follower - n_ids : follower] == ids[-n_ids:]:
                    return Match(n_ids, follower)
        return None

    assert match_of(ids, longest) == search()
