"""A prompt that ends inside a method -> where a completion of it goes on to the next one."""

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

# What lines of Python are told apart by: a line end counts only outside of strings and comments. A
# string that has no end yet takes all the text there is.
_TOKEN = re.compile(
    r"""(?P<line_end>\n)
    | \#[^\n]*
    | '{3} (?:[^'\\] | \\. | '(?!''))*+ (?:'{3})?
    | "{3} (?:[^"\\] | \\. | "(?!""))*+ (?:"{3})?
    | ' (?:[^'\\\n] | \\.)*+ '?
    | " (?:[^"\\\n] | \\.)*+ "?
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANKS = re.compile(r"[ \t]+")
# A line of code that begins so begins a definition; so does one that begins with @.
_DEFINITIONS = ("def ", "async def ", "class ")

Kind = Literal["nothing", "decorator", "function", "class", "code"]


class MethodEnd:
    """Ends a completion where it goes on from the prompt's method to the next definition.

    The method is the innermost function that is still open at the end of the prompt, if it is
    indented: all lines of code after its `def` are indented further. The text ends before a line
    that is not, and that begins a function, a class or a decorator. A completion that has no code
    before such a line was asked for it: then this is the definition that counts.

    prompt  its last line may be unfinished: what goes on with it ends nothing

    Strings that go on over lines count as one line; tabs reach to multiples of 8, as in Python.
    """

    def __init__(self, prompt: str) -> None:
        *self._prompt_lines, self._line = _split_lines(prompt)
        self._begin = 1 - len(self._line)  # of the line, in the text that find is given
        self._n_read = 1
        self._is_of_prompt = bool(self._line.strip())  # the line
        self._method = None if self._is_of_prompt else _open_method(self._prompt_lines)
        self._has_code = False  # the completion has, before the line
        self._end: int | None = None

    def find(self, text: str, begin: int) -> int:
        """Return where the text ends, len(text) if nowhere.

        text  what it was in the call before and more: one character, then the completion
        """
        self._read(text)
        return len(text) if self._end is None else self._end

    def find_unfinished(self, text: str, begin: int) -> int:
        """Return where a line starts that may turn out to end the text; else len(text)."""
        self._read(text)
        is_begun = self._can_end_at(self._line) and _may_define(self._line)
        return self._begin if is_begun else len(text)

    def _read(self, text: str) -> None:
        is_needed = self._is_of_prompt or (self._method is not None and self._end is None)
        if not is_needed or self._n_read == len(text):
            return
        *lines, self._line = _split_lines(self._line + text[self._n_read :])
        self._n_read = len(text)
        for line in lines:
            if self._ends_at(line):
                break
            self._pass(line)
            self._begin += len(line)
        else:
            line = self._line
        if self._ends_at(line):
            self._end = self._begin

    def _ends_at(self, line: str) -> bool:
        return self._can_end_at(line) and _kind(line) in ("function", "class", "decorator")

    def _can_end_at(self, line: str) -> bool:
        return self._method is not None and self._has_code and _indent(line) <= self._method

    def _pass(self, line: str) -> None:
        """Take in a whole line that ends nothing."""
        kind, indent = _kind(line), _indent(line)
        if self._is_of_prompt:
            self._is_of_prompt = False
            self._method = _open_method([*self._prompt_lines, line])
            self._has_code = kind != "decorator" and bool(line[1 - self._begin :].strip())
        elif kind != "nothing" and not self._has_code and self._method is not None:
            is_beside = indent <= self._method
            if is_beside and kind in ("function", "class"):
                self._method = indent
            self._has_code = not (is_beside and kind == "decorator")


def _open_method(lines: Sequence[str]) -> int | None:
    """Return how far the innermost function that is open after some lines is indented, if it is.

    Read from the end, that is the first `def` indented less than all lines of code after it.
    """
    least = sys.maxsize
    for line in reversed(lines):
        kind, indent = _kind(line), _indent(line)
        if indent >= least or kind in ("nothing", "decorator"):
            continue
        if indent == 0 or kind == "function":
            return indent or None
        least = indent
    return None


def _split_lines(text: str) -> list[str]:
    """Return whole lines with their ends, and last what follows them, perhaps nothing."""
    ends = [match.end() for match in _TOKEN.finditer(text) if match.lastgroup]
    return [text[begin:end] for begin, end in pairwise((0, *ends, len(text)))]


def _indent(line: str) -> int:
    return len(line[: len(line) - len(line.lstrip(" \t"))].expandtabs(8))


def _kind(line: str) -> Kind:
    """Tell what a line begins; one that only closes brackets may be indented as its `def` is."""
    code = _code(line)
    if not code.strip() or code[0] in "#)]}":
        return "nothing"
    if code[0] == "@":
        return "decorator"
    if code.startswith(_DEFINITIONS):
        return "class" if code.startswith("class") else "function"
    return "code"


def _may_define(line: str) -> bool:
    """Tell whether more text can make a definition of what has no line end yet."""
    return any(definition.startswith(_code(line)) for definition in _DEFINITIONS)


def _code(line: str) -> str:
    """Return a line without its indentation, each run of blanks as one space."""
    return _BLANKS.sub(" ", line.lstrip(" \t"))
