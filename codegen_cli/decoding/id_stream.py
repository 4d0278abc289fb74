"""Prompt ids -> the ids of the completion: asks for each step's logits, and draws from them."""

from collections import deque
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from codegen_cli.contract.engine import Cache, Part
from codegen_cli.contract.stream import Answer
from codegen_cli.decoding.drafter import Drafter
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.decoding.random_draws import uniform
from codegen_cli.decoding.sampled_tokens import IdLikelihood
from codegen_cli.decoding.sampler import make_sampler
from codegen_cli.decoding.token_likelihoods import make_likelihoods
from quantize.files.errors import UserError

Logits = npt.NDArray[np.float32]


class IdStream:
    """The state of one completion, in ids: at most max_tokens, as far as its cache has room.

    A step feeds the last id and a draft of those that may follow it. An id is drawn from logits
    only once all ids before it have been drawn as they were fed: a draft saves steps, and changes
    neither the logits nor the draws.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        missing_ids: Sequence[int],
        options: GenerateOptions,
        times: PhaseTimes,
    ) -> None:
        self.n_drafted = 0  # ids that were fed before they were drawn
        self.n_accepted = 0  # those of them that were drawn
        self.n_cached = 0  # ids of the prompt that the cache had from the beginning
        self._prompt_ids = prompt_ids
        self._position = len(prompt_ids)
        self._end = self._position + options.max_tokens
        self._options = options
        self._times = times
        self._sample = make_sampler(options.temperature, options.top_p, options.top_k, missing_ids)
        self.likelihood: IdLikelihood | None = None  # of the last id, where it is wanted
        self._likelihood_of = make_likelihoods(options.logprobs, missing_ids)
        self._drafter = Drafter(prompt_ids, options.draft)
        self._draft: list[int] = []
        self._id_cost: float | None = None
        # Of the last step: what is left to draw from, and the ids drawn.
        self._rows: deque[tuple[Logits, int | None]] = deque()
        self._drawn: list[int] = []

    def next_id(self, cache: Cache) -> Generator[Part, Answer | None, int | None]:
        """Ask for logits where none are left; return the next id, None at the end.

        cache  of this text alone, the same at each call; at the first it may have a beginning of
               the prompt, but not all of it

        Raises UserError where the model computes no probabilities.
        """
        if not self._rows:
            room = min(self._end, cache.n_positions) - self._position
            if room <= 0:
                return None
            yield from self._prefill(cache) if not self._drawn else self._step(cache, room)
        with self._times.measured("decode"):
            row, drafted = self._rows.popleft()
            token_id = self._draw(row)
            self.likelihood = self._likelihood_of(row, token_id)
            self._drawn.append(token_id)
            self._position += 1
            self.n_accepted += token_id == drafted
            if token_id != drafted:  # what was fed after it is another text
                self._rows.clear()
        return token_id

    def _prefill(self, cache: Cache) -> Generator[Part, Answer | None, None]:
        self.n_cached = cache.n_past
        ids = self._prompt_ids[cache.n_past :]
        answer = yield from self._times.asked("prefill", self._part(ids, cache, 1))
        self._id_cost = answer.id_cost
        self._rows.append((answer.result[0], None))

    def _step(self, cache: Cache, room: int) -> Generator[Part, Answer | None, None]:
        with self._times.measured("decode"):
            self._drafter.checked(len(self._draft), len(self._drawn) - 1)
            self._drafter.extend(self._drawn)
            self._draft = self._drafter.draft(room - 1, self._id_cost)
            cache.n_past = self._position - 1  # without the drafted ids that were wrong
            fed = [self._drawn[-1], *self._draft]
        answer = yield from self._times.asked("decode", self._part(fed, cache, len(fed)))
        self._id_cost = answer.id_cost
        self.n_drafted += len(self._draft)
        self._drawn = []
        self._rows.extend(zip(answer.result, [*self._draft, None], strict=True))

    def _part(self, ids: Sequence[int], cache: Cache, n_logits: int) -> Part:
        return Part(ids, cache, n_logits, deadline=self._options.deadline)

    def _draw(self, logits: Logits) -> int:
        options = self._options
        is_drawn = options.temperature > 0
        number = uniform(options.seed, options.sample, self._position) if is_drawn else 0.0
        try:
            return self._sample(logits, number)
        except ValueError as error:  # not finite: a file may hold any numbers
            raise UserError(
                f"the model computes no probabilities: {error}",
                "Its file is damaged: `codegen models verify` tells where.",
            ) from error
