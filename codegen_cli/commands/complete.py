"""`codegen complete`: a prompt -> its completion on stdout, streamed as it is made."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from codegen_cli.commands import options
from codegen_cli.commands.overwriting import refuse_overwritten_prompt
from codegen_cli.terminal import console
from quantize.files.errors import UserError


def _checked(parameter: typer.CallbackParam, value: Any) -> Any:
    """Return what an option or its variable says, in its own type; the error names both."""
    if value is None:
        return None
    from codegen_cli.decoding.option_values import real_number
    from codegen_cli.decoding.options import checked
    from codegen_cli.text.prompt_input import check_argument

    name = parameter.name or ""
    try:
        if name == "max_time":
            return real_number(name, value, "a number above 0", fits=lambda number: number > 0)
        if name == "stop":
            value = [check_argument(text, name) for text in value]
        return checked(name, value)
    except UserError as error:
        raise typer.BadParameter(error.message) from error


Prompt = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPT",
        help="Code to complete; several are joined as they are. - is stdin, and so is none.",
    ),
]
File = Annotated[
    Path | None, typer.Option("--file", metavar="PATH", help="Begin the prompt with a file.")
]
MaxTokens = Annotated[
    int,
    typer.Option(
        "--max-tokens",
        "-n",
        envvar="CODEGEN_MAX_TOKENS",
        help="Most new tokens.",
        callback=_checked,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        "-t",
        envvar="CODEGEN_TEMPERATURE",
        help="0 takes the likeliest token.",
        callback=_checked,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        envvar="CODEGEN_TOP_P",
        help="Sample from this share of the mass.",
        callback=_checked,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k",
        envvar="CODEGEN_TOP_K",
        help="Sample from so many tokens; 0: all.",
        callback=_checked,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        envvar="CODEGEN_SEED",
        help="The same seed gives the same text.",
        callback=_checked,
    ),
]
Draft = Annotated[
    int,
    typer.Option(
        "--draft",
        envvar="CODEGEN_DRAFT",
        help="Most tokens to guess from the text and check at once; 0: none. Same text, faster.",
        callback=_checked,
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End before this text; may be repeated.",
        callback=_checked,
    ),
]
Until = Annotated[
    Literal["function", "none"],
    typer.Option(
        "--until",
        envvar="CODEGEN_UNTIL",
        help="function: end where the function or method ends, as said above.",
    ),
]
Echo = Annotated[
    bool,
    typer.Option(
        "--echo",
        help="Write the prompt first, unchanged, as an editor's filter must. Notes are then left "
        "out unless stderr is a terminal or a file of its own, and where both streams lead to one "
        "place all but errors.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Write one JSON object, as OpenAI's completions API.")
]
Usage = Annotated[bool, typer.Option("--usage", help="Show token counts and speeds on stderr.")]
MaxTime = Annotated[
    float | None,
    typer.Option(
        "--max-time",
        envvar="CODEGEN_MAX_TIME",
        help="End after so many seconds.",
        callback=_checked,
    ),
]


def complete(
    prompt: Prompt = None,
    file: File = None,
    model: options.Model = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.2,
    top_p: TopP = 0.95,
    top_k: TopK = 0,
    seed: Seed = None,
    draft: Draft = 8,
    stop: Stop = None,
    until: Until = "function",
    echo: Echo = False,
    special_tokens: options.SpecialTokens = False,
    as_json: AsJson = False,
    usage: Usage = False,
    threads: options.Threads = None,
    max_time: MaxTime = None,
    quiet: options.Quiet = False,
) -> None:
    """Complete code, up to the end of the function.

    That is before two blank lines, before a second line that starts with def or print, and before a
    line that starts with #, ''' or \"\"\". Where the prompt ends inside a method, it is also
    before the next definition (def, class, @) that is indented no further than the method; a
    completion that begins with one ends with that one.

    \b
    codegen complete "def fib(n):"
    codegen complete --file area.py -n 64 -t 0
    codegen complete --file area.py >> area.py
    cat shapes.py | codegen complete - "def area("
    codegen complete -m 2B-mono:int4 --until none "# parse a CSV file"
    codegen complete --json --seed 7 "def add(a, b):" | jq -r '.choices[0].text'
    codegen complete --usage --draft 0 "class Stack:"
    codegen complete --special-tokens "<|endoftext|>import os"
    """
    started = time.monotonic()
    console.set_quiet(quiet)
    if echo:
        console.keep_out_of_filters()
    if not prompt and file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a PROMPT, --file, or a pipe on stdin")
    from codegen_cli.decoding.options import GenerateOptions

    generate_options = GenerateOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        draft=draft,
        stop=tuple(stop or ()),
        until=until,
        deadline=None if max_time is None else started + max_time,
        **({} if seed is None else {"seed": seed}),
    )
    from codegen_cli.reports.completion import Completion
    from codegen_cli.text.prompt_input import STDIN, read_prompt

    reads_stdin = STDIN in prompt if prompt else file is None
    refuse_overwritten_prompt(file, reads_stdin=reads_stdin)
    completion = Completion(
        generate_options, echo=echo, streams=not as_json, special_tokens=special_tokens
    )
    try:
        completion.run(lambda: read_prompt(prompt or [], file), model, threads)
    finally:
        # Ctrl-C and SIGTERM pass through here: what was made so far is reported all the same.
        if completion.summary is not None:
            if as_json:
                completion.write_json()
            if usage:
                console.show(completion.usage_line())
            if not as_json:
                console.tip(completion.cut_line())
    # As an exception holds on to this frame, the process ends with the model still there: freeing
    # it and its tokenizer piece by piece took 0.02 s.
    raise typer.Exit
