"""Pieces of a completion -> what may be shown of them; watches for the text that ends it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

from codegen_cli.decoding.defaults import Until
from codegen_cli.decoding.open_method import MethodEnd
from quantize.checkpoint.added_tokens import END_OF_TEXT


class Rule(Protocol):
    """Where a text ends: one character, what the prompt ended with, and the completion so far."""

    def find(self, text: str, begin: int) -> int:
        """Return where it ends, at `begin` or later; len(text) if nowhere."""

    def find_unfinished(self, text: str, begin: int) -> int:
        """Return where an end starts whose rest the text lacks, at `begin` or later."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A completion ends before this text: anywhere, or only at a line start; its nth time.

    Line ends are LF or CRLF, in the stop and in the text, and match each other. A CR alone is none.
    """

    text: str
    starts_line: bool = False
    nth: int = 1

    def find(self, text: str, begin: int) -> int:
        """Return where this starts, at `begin` or later; len(text) if nowhere."""
        at = _search(self.text, text, self._first_place(text, begin))
        while at >= 0 and not self._may_start(text, at):
            at = _search(self.text, text, at + 1)
        return at if at >= 0 else len(text)

    def find_unfinished(self, text: str, begin: int) -> int:
        """Return where this starts though its rest is lacking, at `begin` or later."""
        longest = len(self.text) + self.text.count("\n")
        begin = max(self._first_place(text, begin), len(text) - longest + 1)
        for at in range(begin, len(text)):
            if _is_begun(self.text, text[at:]) and self._may_start(text, at):
                return at
        return len(text)

    def _first_place(self, text: str, begin: int) -> int:
        """Return where the nth occurrence may start: `begin`, but behind the one before it."""
        if self.nth == 1:
            return begin
        return max(begin, replace(self, nth=self.nth - 1).find(text, 1) + 1)

    def _may_start(self, text: str, at: int) -> bool:
        return not self.starts_line or text[at - 1] == "\n"


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

    prompt  until "function": its method ends as open_method.MethodEnd tells; and a completion
            begins at a line start if the prompt ends with a line end, or is empty

    Text that may still turn into a stop is held back, and no other. How the text is cut into pieces
    makes no difference.
    """

    def __init__(self, stop: Sequence[str] = (), until: Until = "none", prompt: str = "") -> None:
        self._rules: tuple[Rule, ...] = tuple(map(Stop, stop))
        if until == "function":
            self._rules += (*FUNCTION_STOPS, MethodEnd(prompt))
        self._text = prompt[-1:] or "\n"
        self._n_shown = len(self._text)
        self.stopped = False  # once True, nothing more will be shown

    def feed(self, text: str) -> str:
        """Add a piece and return what may be shown now."""
        self._text += text
        held = min(
            (rule.find_unfinished(self._text, self._n_shown) for rule in self._rules),
            default=len(self._text),
        )
        return self._show(held)

    def finish(self) -> str:
        """Return the text held back, as the completion ends here; still nothing from a stop on."""
        return self._show(len(self._text))

    def _show(self, held: int) -> str:
        """Return the text not shown yet up to `held`, or up to a stop that starts before it."""
        cut = min(
            (rule.find(self._text, self._n_shown) for rule in self._rules),
            default=len(self._text),
        )
        self.stopped = cut < len(self._text) and cut <= held
        begin, self._n_shown = self._n_shown, min(cut, held)
        return self._text[begin : self._n_shown]


def _search(stop: str, text: str, begin: int) -> int:
    """Return where a stop starts, at `begin` or later; -1 if nowhere."""
    if "\n" not in stop:
        return text.find(stop, begin)
    match = _pattern(stop).search(text, begin)
    return match.start() if match else -1


@cache
def _pattern(stop: str) -> re.Pattern[str]:
    lines = stop.replace("\r\n", "\n").split("\n")
    return re.compile("\r?\n".join(map(re.escape, lines)))


def _is_begun(stop: str, tail: str) -> bool:
    """Tell whether a stop begins with all of `tail`, which may end in half a CRLF."""
    if "\n" not in stop:
        return stop.startswith(tail)
    stop, tail = stop.replace("\r\n", "\n"), tail.replace("\r\n", "\n")
    return stop.startswith(tail) or (tail[-1] == "\r" and stop.startswith(tail[:-1] + "\n"))
