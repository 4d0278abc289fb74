"""A model -> what a long prompt costs the texts that it joins, and what they cost it: line (d)."""

import time
from collections.abc import Sequence
from statistics import median

from lines import Line
from texts import Words, request
from watched import Watched, gaps

from codegen_cli.session.generation import Request
from codegen_cli.session.language_model import LanguageModel
from codegen_cli.session.service import Service

N_RUNNING, DEPTH, PROMPT = 4, 32, 1500
_MOST_TOKENS = 1024  # of each: more than they get until the prompt has been read
_USUAL_TOKENS = 48  # which they get before it comes


class Joining:
    """(d) the longest gap between two tokens of those under way, and the prompt's first token."""

    def __init__(self) -> None:
        title = f"a {PROMPT}-token prompt joins {N_RUNNING} texts"
        self.lines = [
            Line(f"{title}: their longest gap / usual", 8, 4, at_most=True),
            Line(f"{title}: its first token / alone", 1.5, 1.2, at_most=True),
        ]

    def run(self, model: LanguageModel, engine: Watched, words: Words) -> None:
        """Measure one round."""
        prompt = request(words.text(PROMPT), 1)
        running = [request(words.text(DEPTH), _MOST_TOKENS) for _ in range(N_RUNNING)]
        with model.serve() as service:
            engine.forget()
            alone = _seconds_to_first_token(model, service, engine, prompt)
            engine.forget()
            submissions = [service.submit(model.task(each)) for each in running]
            while len(engine.moments) < N_RUNNING or _least(engine) < _USUAL_TOKENS:
                time.sleep(0.01)
            joined = time.perf_counter()
            prompt = request(words.text(PROMPT), 1)  # none of which has been read
            first_token = _seconds_to_first_token(model, service, engine, prompt)
            for submission in submissions:
                submission.close()
        texts = [each for each in engine.moments.values() if each[0] < joined]
        usual = median(gap for each in texts for gap in gaps([m for m in each if m < joined]))
        self.lines[0].add(max(_longest(each, joined, first_token) for each in texts) / usual)
        self.lines[1].add(first_token / alone)


def _least(engine: Watched) -> int:
    return min(len(moments) for moments in list(engine.moments.values()))


def _seconds_to_first_token(
    model: LanguageModel, service: Service, engine: Watched, prompt: Request
) -> float:
    """Return the seconds from the call until the engine has made the first token's logits."""
    started = time.perf_counter()
    for _ in service.submit(model.task(prompt)):
        pass
    firsts = [moments[0] for moments in engine.moments.values()]
    return min(moment for moment in firsts if moment > started) - started


def _longest(moments: Sequence[float], joined: float, seconds: float) -> float:
    """Return the longest gap of those that touch the time in which the prompt is read."""
    last = max(moment for moment in moments if moment <= joined)
    own = [moment for moment in moments if last <= moment <= joined + seconds]
    return max(gaps([*own, joined + seconds]))
