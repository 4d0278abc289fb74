"""A command's help -> lines that fit the terminal, down to 30 columns.

typer itself lays help out for 50 columns and more, beside a column of option names.
"""

import re
import shutil
from collections.abc import Sequence

import typer
from typer.core import TyperCommand, TyperGroup

from codegen_cli.terminal.screen import wrapped

_COLUMNS = range(30, 81)  # longer lines are hard to read
_LEAST_BESIDE = 60  # columns from which explanations stand beside what they explain
_UNWRAPPED = "\b\n"  # begins a paragraph of examples, as typer has it


class _Formatter(typer.Context.formatter_class):  # type: ignore[misc, valid-type]
    """Puts explanations below names, and breaks examples, where a terminal is narrow."""

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        columns = min(max(shutil.get_terminal_size().columns, _COLUMNS[0]), _COLUMNS[-1])
        super().__init__(indent_increment, width or columns - 2, max_width)

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how a command is called."""
        self.write(wrapped(f"{prefix or 'Usage: '}{prog} {args}", self.width, "    ") + "\n")

    def write_dl(
        self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names with their explanations."""
        if self.width >= _LEAST_BESIDE:
            super().write_dl(rows, col_max, col_spacing)
            return
        indent = " " * self.current_indent
        for name, text in rows:
            self.write(f"{indent}{name}\n")
            if text:
                self.write(wrapped(f"{indent}    {text}", self.width, f"{indent}    ") + "\n")

    def write_text(self, text: str) -> None:
        """Write paragraphs; an example stays a line, or goes on after a backslash."""
        paragraphs = [self._paragraph(paragraph) for paragraph in text.split("\n\n")]
        self.write("\n\n".join(paragraphs) + "\n")

    def _paragraph(self, text: str) -> str:
        indent = " " * self.current_indent
        if text.startswith(_UNWRAPPED):
            examples = text.removeprefix(_UNWRAPPED).splitlines()
            return "\n".join(self._example(f"{indent}{each}") for each in examples)
        return wrapped(indent + " ".join(text.split()), self.width, indent)

    def _example(self, line: str) -> str:
        if len(line) <= self.width:
            return line
        indent = " " * (self.current_indent + 4)
        lines, current = [], line[: self.current_indent]
        for words in _inseparable(line, self.width - len(indent) - 2):
            longer = f"{current} {words}" if current.strip() else current + words
            if current.strip() and len(longer) > self.width - 2:
                lines.append(f"{current} \\")
                longer = indent + words
            current = longer
        return "\n".join([*lines, current])


def _inseparable(line: str, width: int) -> list[str]:
    """Split a command line between words; an option and its value stay together if they can."""
    import shlex

    lexer = shlex.shlex(line, posix=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    parts: list[str] = []
    for word in lexer:  # quotes are kept
        joined = f"{parts[-1]} {word}" if parts else ""
        wants_more = re.fullmatch(r"(.* )?(-[^ ]+|\||2?>) [^-|].*", joined)
        if wants_more and len(joined) <= width:
            parts[-1] = joined
        else:
            parts.append(word)
    return parts


class _Context(typer.Context):
    formatter_class = _Formatter


class Command(TyperCommand):
    """A command whose help fits the terminal; in lists, its whole first sentence tells of it."""

    context_class = _Context

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first line of the help, whatever the limit."""
        return (self.help or "").partition("\n")[0]


class Group(TyperGroup):
    """A group of commands whose help fits the terminal; see Command."""

    context_class = _Context

    get_short_help_str = Command.get_short_help_str
