"""`codegen score`: text files -> how likely the model finds them."""

from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.commands.overwriting import refuse_overwritten_texts
from codegen_cli.terminal import console


def score(
    files: options.TextFiles,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens",
            help="Show every token: in colours on a terminal, else a line with its probability.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object for all files.")
    ] = False,
    special_tokens: options.SpecialTokens = False,
    model: options.Model = None,
    threads: options.Threads = None,
    device: options.Device = None,
    ignore_memory: options.IgnoreMemory = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how likely texts are.

    Prints bits per byte and perplexity, for each file and for all. The end-of-text token is read
    first, so that every token of a text has a probability. A text longer than the model's context
    is read in overlapping windows of one context, each half a context further than the one before
    (the stride): every token is scored once, after all tokens before it or at least half a context
    of them.

    In a file's name, \\xNN stands for a byte that is not UTF-8.

    \b
    codegen score src/*.py
    codegen score --tokens area.py
    git show HEAD:area.py | codegen score -m 2B-mono:int4 -
    codegen score --tokens area.py | sort -t "$(printf '\\t')" -k3,3gr | head
    codegen score --json *.py | jq .total.bits_per_byte
    """
    console.set_quiet(quiet)
    refuse_overwritten_texts(files)
    from codegen_cli.commands.prompt_input import read_texts
    from codegen_cli.contract.interruption import run_interruptibly
    from codegen_cli.reports.score_report import write_scores
    from codegen_cli.session.loading import load

    texts = run_interruptibly(lambda: read_texts(files))  # before the model: mistakes show at once
    loaded = load(model, threads, device=device, notes=True, ignore_memory=ignore_memory)
    with loaded as language_model:
        named = zip(files, texts, strict=True)
        write_scores(
            language_model,
            named,
            with_tokens=tokens,
            as_json=as_json,
            special_tokens=special_tokens,
        )
