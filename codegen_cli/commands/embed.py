"""`codegen embed`: text files -> a vector for each, from the model's hidden states."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from codegen_cli.commands import options
from codegen_cli.commands.overwriting import refuse_overwritten_texts
from codegen_cli.terminal import console


def embed(
    files: options.TextFiles,
    pool: Annotated[
        Literal["mean", "last"],
        typer.Option("--pool", help="The mean of all tokens' states, or the last token's state."),
    ] = "mean",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, not to stdout."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a JSON object a line instead of .npy.")
    ] = False,
    special_tokens: options.SpecialTokens = False,
    model: options.Model = None,
    threads: options.Threads = None,
    device: options.Device = None,
    ignore_memory: options.IgnoreMemory = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn texts into vectors.

    They are the model's hidden states after its last norm. Writes one float32 array in NumPy's .npy
    format, a row a file: [files, n_embd]. A text longer than the model's context is read in
    overlapping windows of one context, each half a context further than the one before (the
    stride): every token's state is taken once, after all tokens before it or at least half a
    context of them.

    In a file's name, \\xNN stands for a byte that is not UTF-8.

    \b
    codegen embed src/*.py -o vectors.npy
    codegen embed --pool last --json a.py b.py | jq -c .embedding
    cat area.py | codegen embed -m 350M-mono - > area.npy
    """
    console.set_quiet(quiet)
    if output is None and not as_json and sys.stdout.isatty():
        raise typer.BadParameter("a .npy file is binary: give -o FILE or --json, or redirect it")
    refuse_overwritten_texts(files, output)

    from codegen_cli.commands.prompt_input import read_texts
    from codegen_cli.contract.interruption import run_interruptibly
    from codegen_cli.reports.embed_report import judge_output, refuse_empty, write_vectors
    from codegen_cli.session.loading import load

    # Before the model is loaded: mistakes show at once.
    texts = run_interruptibly(lambda: read_texts(files, refuse_empty))
    if output is not None:
        judge_output(output)
    named = zip(files, texts, strict=True)
    loaded = load(model, threads, device=device, notes=True, ignore_memory=ignore_memory)
    with loaded as language_model:
        write_vectors(
            language_model,
            named,
            len(files),
            pool,
            output=output,
            as_json=as_json,
            special_tokens=special_tokens,
        )
