"""Prompt ids -> pieces of text as they are made, then a summary; asks for what it needs."""

from collections.abc import Sequence

from codegen_cli.contract.deadline import TimeUp
from codegen_cli.contract.engine import Cache
from codegen_cli.contract.stream import Stream
from codegen_cli.decoding.id_stream import IdStream
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.phase_times import PhaseTimes
from codegen_cli.decoding.sampled_tokens import TokenQueue
from codegen_cli.decoding.stopping import StopWatch
from codegen_cli.decoding.summary import EndReason, Piece, Summary
from codegen_cli.text.text_stream import TextStream
from codegen_cli.text.vocabulary import Vocabulary


class CompletionStream:
    """The state of one completion: a contract.stream.Stream of Pieces, and last the Summary.

    prompt_ids  not empty, each below the model's vocab_size
    prompt      the text of prompt_ids, and perhaps what was cut before them: StopWatch reads in it
                what the completion begins with
    n_dropped   characters that were cut
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompt_ids: Sequence[int],
        options: GenerateOptions,
        prompt: str,
        n_dropped: int = 0,
    ) -> None:
        self._n_prompt_ids = len(prompt_ids)
        self._n_dropped = n_dropped
        self._seed = options.seed
        self._end_ids = vocabulary.end_ids
        self._times = PhaseTimes()
        self._ids = IdStream(prompt_ids, vocabulary.missing_ids, options, self._times)
        self._stream = TextStream(vocabulary.token_bytes, vocabulary.errors)
        self._watch = StopWatch(options.stop, options.until, prompt)
        self._n_sampled = 0
        self._ids_since_piece: list[int] = []
        self._tokens = TokenQueue(vocabulary.token_bytes)
        self._n_characters = self._n_shown = 0  # of the text sampled, and of the pieces

    def summary(self, end_reason: EndReason) -> Summary:
        """Return what was done so far, as if it ended now."""
        return Summary(
            end_reason=end_reason,
            seed=self._seed,
            prompt_tokens=self._n_prompt_ids,
            cached_tokens=self._ids.n_cached,
            dropped_characters=self._n_dropped,
            completion_tokens=self._n_sampled,
            drafted_tokens=self._ids.n_drafted,
            accepted_tokens=self._ids.n_accepted,
            prefill_seconds=self._times.seconds["prefill"],
            decode_seconds=self._times.seconds["decode"],
        )

    def run(self, cache: Cache) -> Stream[Piece | Summary, None]:
        """Ask and make, once; the cache is of this text alone, and may have its beginning."""
        try:
            end_reason = yield from self._decode(cache)
        except TimeUp:
            end_reason = "time"
        rest = self._watch.feed(self._stream.finish()) + self._watch.finish()
        if rest:
            yield self._piece(rest)
        yield self.summary("stop" if self._watch.stopped else end_reason)

    def _decode(self, cache: Cache) -> Stream[Piece, EndReason]:
        while (token_id := (yield from self._ids.next_id(cache))) is not None:
            self._n_sampled += 1
            if token_id in self._end_ids:
                return "stop"
            with self._times.measured("decode"):
                text = self._watch.feed(self._read(token_id))
            if text:
                yield self._piece(text)
            if self._watch.stopped:
                return "stop"
        return "length"

    def _read(self, token_id: int) -> str:
        """Return the characters that an id completes."""
        self._ids_since_piece.append(token_id)
        self._tokens.add(token_id, self._ids.likelihood, self._n_characters)
        text = self._stream.feed(token_id)
        self._n_characters += len(text)
        return text

    def _piece(self, text: str) -> Piece:
        self._n_shown += len(text)
        ids, tokens = tuple(self._ids_since_piece), self._tokens.begun_before(self._n_shown)
        piece = Piece(text, ids, tokens)
        self._ids_since_piece.clear()
        return piece
