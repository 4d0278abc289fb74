"""Arguments, files and stdin -> texts, every byte of them kept."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_cli.terminal.streams import read_stdin
from quantize.files.errors import UserError

if TYPE_CHECKING:
    from codegen_cli.contract.deadline import Deadline

STDIN = "-"


def decode_input(data: bytes, where: str) -> str:
    """Return the text of a file or pipe, every character kept: BOM, CRLF, no final newline.

    Raises UserError naming `where` and the first byte that is not UTF-8, or is NUL.
    """
    try:
        text = data.decode()
        bad = data.find(0)
    except UnicodeDecodeError as error:
        text = ""
        bad = data.find(0, 0, error.start)
        bad = error.start if bad < 0 else bad
    if bad < 0:
        return text
    raise UserError(
        f"{where} is not UTF-8 text: found byte 0x{data[bad]:02X} at offset {bad}",
        "Convert it from UTF-16 to UTF-8."
        if data.startswith((b"\xff\xfe", b"\xfe\xff"))
        else "Give text in UTF-8; a binary file cannot be completed.",
    )


def check_argument(text: str, where: str) -> str:
    """Return a command line argument as it is; UserError when its bytes were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Python hands an undecodable byte 0xNN over as the character U+DCNN.
        found = f"byte 0x{ord(text[error.start]) & 0xFF:02X} after {text[: error.start]!r}"
        raise UserError(
            f"{where} is not UTF-8 text: found {found}", "Give the text in UTF-8."
        ) from error
    return text


def read_prompt(arguments: list[str], file: Path | None, deadline: "Deadline" = None) -> str:
    """Return the file's text followed by the arguments, joined as they are; `-` stands for stdin.

    Without a file and arguments, stdin is the prompt. Raises UserError: a file that cannot be read,
    text that is not UTF-8; TimeUp while it waits for them.
    """
    from codegen_cli.contract.interruption import run_interruptibly  # no `--help` needs threads

    parts = []
    if file is not None:
        parts.append(
            decode_input(run_interruptibly(partial(_read_file, file), deadline), str(file))
        )
    if file is None and not arguments:
        arguments = [STDIN]
    from_stdin = ""
    if STDIN in arguments:
        from_stdin = decode_input(run_interruptibly(_read_stdin, deadline), "stdin")
    for number, argument in enumerate(arguments, start=1):
        is_stdin = argument == STDIN
        parts.append(from_stdin if is_stdin else check_argument(argument, f"argument {number}"))
    return "".join(parts)


def read_texts(
    files: list[str], judge: Callable[[str, str], None] = lambda file, text: None
) -> Iterator[str]:
    """Return the texts of files, each read again when its turn has come; `-` is stdin.

    All are read once and given to `judge` before this returns, so that a mistake shows at once; but
    of very many files no text is kept, except of those that can be read only once. Raises
    UserError: a file that cannot be read, text that is not UTF-8; and what `judge` raises.
    """
    kept = {}
    for file in dict.fromkeys(files):
        text = _read_text(file)
        judge(file, text)
        if file == STDIN or not Path(file).is_file():
            kept[file] = text
    return (kept[file] if file in kept else _read_text(file) for file in files)


def _read_text(file: str) -> str:
    if file == STDIN:
        return decode_input(_read_stdin(), "stdin")
    return decode_input(_read_file(Path(file), "Give text files; - stands for stdin."), file)


def _read_stdin() -> bytes:
    try:
        return b"".join(iter(read_stdin, b""))
    except OSError as error:
        raise UserError(
            f"cannot read stdin: {error.strerror}", "Give the text as an argument, or pipe it in."
        ) from error


def _read_file(path: Path, hint: str = "--file takes the text file to complete.") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if str(path) == STDIN:
            hint = "For stdin give - as the prompt: codegen complete -"
        raise UserError(f"cannot read {path}: {error.strerror}", hint) from error
