"""Pieces of a completion -> what may be shown of them; watches for the text that ends it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from quantize.added_tokens import END_OF_TEXT

Until = Literal["function", "none"]


@dataclass(frozen=True, slots=True)
class Stop:
    """A completion ends before this text: anywhere, or only at a line start; its nth time."""

    text: str
    starts_line: bool = False
    nth: int = 1


# Where one function ends: the rules by which CodeGen's authors cut their samples (`truncate` in
# https://github.com/salesforce/CodeGen/blob/main/codegen1/jaxformer/hf/sample.py).
FUNCTION_STOPS = (
    Stop("print", starts_line=True, nth=2),
    Stop("def", starts_line=True, nth=2),
    Stop("#", starts_line=True),
    Stop("'''", starts_line=True),
    Stop('"""', starts_line=True),
    Stop(END_OF_TEXT),
    Stop("\n\n\n"),
)


class StopWatch:
    """Passes a completion through up to its first stop, the one that starts earliest.

    Text that may still turn into a stop is held back, and no other. The beginning of the completion
    counts as the start of a line. How the text is cut into pieces makes no difference.
    """

    def __init__(self, stop: Sequence[str] = (), until: Until = "none") -> None:
        self._stops = (FUNCTION_STOPS if until == "function" else ()) + tuple(map(Stop, stop))
        self._text = ""
        self._n_shown = 0
        self.stopped = False  # once True, nothing more will be shown

    def feed(self, text: str) -> str:
        """Add a piece and return what may be shown now."""
        self._text += text
        held = min(
            (find_unfinished(stop, self._text, self._n_shown) for stop in self._stops),
            default=len(self._text),
        )
        return self._show(held)

    def finish(self) -> str:
        """Return the text held back, as the completion ends here; still nothing from a stop on."""
        return self._show(len(self._text))

    def _show(self, held: int) -> str:
        """Return the text not shown yet up to `held`, or up to a stop that starts before it."""
        cut = min(
            (find(stop, self._text, self._n_shown) for stop in self._stops),
            default=len(self._text),
        )
        self.stopped = cut < len(self._text) and cut <= held
        begin, self._n_shown = self._n_shown, min(cut, held)
        return self._text[begin : self._n_shown]


def find(stop: Stop, text: str, begin: int = 0) -> int:
    """Return where a stop starts in the text, at `begin` or later; len(text) if nowhere."""
    at = text.find(stop.text, _first_place(stop, text, begin))
    while at >= 0 and not _may_start(stop, text, at):
        at = text.find(stop.text, at + 1)
    return at if at >= 0 else len(text)


def find_unfinished(stop: Stop, text: str, begin: int = 0) -> int:
    """Return where a stop starts whose rest the text lacks, at `begin` or later; else len(text)."""
    begin = max(_first_place(stop, text, begin), len(text) - len(stop.text) + 1)
    for at in range(begin, len(text)):
        if stop.text.startswith(text[at:]) and _may_start(stop, text, at):
            return at
    return len(text)


def _first_place(stop: Stop, text: str, begin: int) -> int:
    """Return where the nth occurrence may start: `begin`, but behind the one before it."""
    if stop.nth == 1:
        return begin
    return max(begin, find(replace(stop, nth=stop.nth - 1), text) + 1)


def _may_start(stop: Stop, text: str, at: int) -> bool:
    return not stop.starts_line or at == 0 or text[at - 1] == "\n"
