"""A packed file -> its model and its tokenizer, made ready side by side."""

from collections.abc import Callable
from pathlib import Path

from codegen_cli.deadline import Deadline
from codegen_cli.engine.model import Model, start_model
from codegen_cli.engine.threads import Background
from codegen_cli.text.tokenizer import Tokenizer
from quantize.packed_file import read_packed_file


def load_model_and_tokenizer(
    path: Path,
    n_threads: int | None,
    on_compile: Callable[[], None],
    deadline: Deadline = None,
) -> tuple[Model, Tokenizer]:
    """Return what a packed file holds, ready to run; arguments as for `engine.model.load_model`.

    Weights are left to be fetched as the first pass touches them: asking for the whole file at once
    was measured to be slower. Raises UserError for an invalid file or tokenizer and where memory is
    short, TimeUp.
    """
    packed = read_packed_file(path)
    tokenizer = Background(lambda: Tokenizer.from_packed(packed))
    model = start_model(packed, n_threads, on_compile, deadline)
    try:
        return model, tokenizer.result(deadline)
    except BaseException:
        model.close()
        raise
