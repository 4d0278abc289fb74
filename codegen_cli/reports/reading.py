"""Named texts and what reads them -> their results in turn, a bar for the one waited for."""

from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from typing import TypeVar

from codegen_cli.session.many_texts import OnProgress
from codegen_cli.terminal import drawing

Result = TypeVar("Result")


def read_in_turn(
    texts: Iterable[tuple[str, str]],
    read: Callable[[Iterator[str], OnProgress], Iterator[Result]],
) -> Iterator[tuple[str, Result]]:
    """Yield (name, result) for each (name, text).

    read  yields the results of texts in order, and tells how far it is with the next; it may take
          texts ahead

    Raises what `texts` and `read` raise, each in its turn.
    """
    advance: drawing.Advance
    named, ahead = tee(texts)
    results = read((text for _, text in ahead), lambda done, total: advance(done, total))
    for name, _ in named:
        with drawing.progress(name) as advance:
            result = next(results)
        yield name, result
    next(results, None)  # what `texts` raised when they were taken ahead
