"""A model -> how much faster several texts are continued at once than one: lines (a) and (b)."""

import time
from collections.abc import Iterator, Sequence

from lines import Line
from texts import Words, request
from watched import Watched

from codegen_cli.contract.engine import Cache, Engine
from codegen_cli.measuring.speed import N_STEPS, step_seconds
from codegen_cli.session.generation import Request
from codegen_cli.session.language_model import LanguageModel

N_TEXTS = 8
# Tokens that each text gets: all must still be at it once the last one's prompt has been read.
LENGTHS = {32: 128, 1024: 320}
SHORT, N_SAMPLES, SAMPLE_PROMPT, SAMPLE_TOKENS = 32, 5, 256, 64


def goals(depth: int, kernels: str) -> tuple[float | None, float | None]:
    """Return must and aim of the texts' speed beside one text's, on a kernel path."""
    if depth != SHORT:
        return (1.8, 2.3) if kernels.endswith("vnni") else (None, None)
    return (3.5, 5.0) if kernels.endswith("vnni") else (1.8, 2.5)


class Decoding:
    """(a) so many texts after `depth` tokens of their own: all of them together beside one."""

    def __init__(self, depth: int, kernels: str) -> None:
        must, aim = goals(depth, kernels)
        title = f"{N_TEXTS} texts after {depth} / one"
        self._depth = depth
        self._product = Line(title, must, aim)
        self._engine = Line(f"{title}, the engine alone")
        self.lines = [self._product, self._engine]

    def run(self, model: LanguageModel, engine: Watched, words: Words) -> None:
        """Measure one round."""
        texts = [words.text(self._depth) for _ in range(N_TEXTS)]
        requests = [request(text, LENGTHS[self._depth]) for text in texts]
        one = _speed(model, engine, requests[:1])
        self._product.add(_speed(model, engine, requests) / one)
        caches = [engine.random_cache(self._depth + N_STEPS) for _ in texts]
        one = _engine_speed(engine, caches[:1], self._depth)
        self._engine.add(_engine_speed(engine, caches, self._depth) / one)


def _speed(model: LanguageModel, engine: Watched, requests: Sequence[Request]) -> float:
    """Return the tokens per second that completions get once all prompts have been read."""
    engine.forget()
    for _ in model.generate_many(requests):
        pass
    return engine.tokens_per_second()


def _engine_speed(engine: Engine, caches: Sequence[Cache], depth: int) -> float:
    seconds = step_seconds(engine, caches, depth, N_STEPS)
    return len(caches) * len(seconds) / sum(seconds)


class Samples:
    """(b) several completions of one prompt beside a single one, from the call to its end."""

    def __init__(self) -> None:
        title = f"{N_SAMPLES} samples of a {SAMPLE_PROMPT}-token prompt / one: time"
        self.lines = [Line(title, 1.35, 1.2, at_most=True)]

    def run(self, model: LanguageModel, engine: Watched, words: Words) -> None:
        """Measure one round."""
        text = words.text(SAMPLE_PROMPT)
        one, all_of_them = (_seconds(model, text, n) for n in (1, N_SAMPLES))
        self.lines[0].add(all_of_them / one)


def _seconds(model: LanguageModel, text: str, n_samples: int) -> float:
    started = time.perf_counter()
    for _ in model.generate_many(_samples(text, n_samples)):
        pass
    return time.perf_counter() - started


def _samples(text: str, n: int) -> Iterator[Request]:
    return (request(text, SAMPLE_TOKENS, sample) for sample in range(n))
