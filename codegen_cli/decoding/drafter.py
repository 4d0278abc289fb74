"""Drafts the ids that come next, as many as pay: by how often drafts hold and what ids cost."""

from collections.abc import Sequence

from codegen_cli.decoding.prompt_lookup import Match, PromptLookup

# How often a drafted id holds after a match of 1 to 4 ids; a run soon goes by its own. Measured in
# people's Python and, the larger ones, in completions of the bundled model at temperatures 0 to
# 0.8: 0.31 to 0.41, 0.45 to 0.51, 0.50 to 0.66, 0.66 to 0.97.
_USUAL_HIT_RATES = (0.35, 0.5, 0.6, 0.75)
_REMEMBERED_DRAFTED = 8

_STEPS_BETWEEN_TRIALS = 64


class Drafter:
    """Drafts for one completion, of at most `most` ids; what it learns never changes the text.

    Around each step: draft, then checked, then extend with the ids that were drawn.
    """

    def __init__(self, prompt_ids: Sequence[int], most: int) -> None:
        self._lookup = PromptLookup(prompt_ids, longest=len(_USUAL_HIT_RATES))
        self._most = most
        self._hit_rates = list(_USUAL_HIT_RATES)
        self._match: Match | None = None
        self._n_declined = 0

    def extend(self, ids: Sequence[int]) -> None:
        """Add ids that were drawn."""
        for token_id in ids:
            self._lookup.append(token_id)

    def draft(self, room: int, id_cost: float | None) -> list[int]:
        """Return at most `room` ids that may come next, as many as are likely to save time.

        id_cost  as of an Answer; while nothing is known of it, nothing is drafted
        """
        self._match = match = self._lookup.longest_match()
        room = min(room, self._most)
        if match is None or room <= 0 or id_cost is None:
            return []
        n_ids = best_length(self._hit_rates[match.n_ids - 1], id_cost, room)
        if n_ids == 0:  # once in a while, look whether that has changed
            self._n_declined += 1
            n_ids = int(self._n_declined % _STEPS_BETWEEN_TRIALS == 0)
        return self._lookup.copy(match.follower, n_ids)

    def checked(self, n_drafted: int, n_accepted: int) -> None:
        """Learn from a step how many ids of its draft held."""
        if n_drafted == 0:
            return
        assert self._match is not None
        length = self._match.n_ids - 1
        for has_held in [True] * n_accepted + [False] * (n_accepted < n_drafted):
            self._hit_rates[length] += (has_held - self._hit_rates[length]) / _REMEMBERED_DRAFTED


def best_length(hit_rate: float, cost: float, most: int) -> int:
    """Return how many ids to draft for the most ids a second, 0 to `most`.

    hit_rate  share of drafted ids that hold; n of them give 1 + hit_rate + ... + hit_rate**n ids
    cost      of one more id, as a share of a step with a single one: the step takes 1 + n * cost
    """
    best, best_rate = 0, 1.0
    n_ids = chance = 1.0
    for length in range(1, most + 1):
        chance *= hit_rate
        n_ids += chance
        rate = n_ids / (1 + length * cost)
        if rate <= best_rate:
            break  # each further id holds less often and costs as much
        best, best_rate = length, rate
    return best
