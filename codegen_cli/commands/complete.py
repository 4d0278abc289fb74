"""`codegen complete`: a prompt -> its completion on stdout, streamed as it is made."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from codegen_cli.commands import options
from codegen_cli.commands.overwriting import refuse_overwritten_prompt
from codegen_cli.decoding import defaults
from codegen_cli.terminal import console
from quantize.files.errors import UserError


def _checked(parameter: typer.CallbackParam, value: Any) -> Any:
    """Return what an option or its variable says, in its own type; the error names both."""
    if value is None:
        return None
    from codegen_cli.commands.prompt_input import check_argument
    from codegen_cli.decoding.option_values import real_number, samples
    from codegen_cli.decoding.options import checked

    name = parameter.name or ""
    try:
        if name == "max_time":
            return real_number(name, value, "a number above 0", fits=lambda number: number > 0)
        if name == "samples":
            return samples(name, value)
        if name == "stop":
            value = [check_argument(text, name) for text in value]
        return checked(name, value)
    except UserError as error:
        raise typer.BadParameter(error.message) from error


def _option(name: str, help: str, *flags: str) -> Any:
    """Declare a number, to be given by its flag or by its variable."""
    return typer.Option(
        f"--{name.replace('_', '-')}",
        *flags,
        envvar=f"CODEGEN_{name.upper()}",
        help=help,
        callback=_checked,
    )


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
MaxTokens = Annotated[int, _option("max_tokens", "Most new tokens.", "-n")]
Temperature = Annotated[float, _option("temperature", "0 takes the likeliest token.", "-t")]
TopP = Annotated[float, _option("top_p", "Sample from this share of the mass.")]
TopK = Annotated[int, _option("top_k", "Sample from so many tokens; 0: all.")]
Seed = Annotated[int | None, _option("seed", "The same seed gives the same text.")]
Draft = Annotated[
    int,
    _option(
        "draft",
        "Most tokens to guess from the text and check at once; 0: none. Same text, faster.",
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        "--stop", metavar="TEXT", help="End before this text; may be repeated.", callback=_checked
    ),
]
Until = Annotated[
    defaults.Until,
    typer.Option(
        "--until",
        envvar="CODEGEN_UNTIL",
        help="function: end where the function or method ends, as said above.",
    ),
]
MaxTime = Annotated[float | None, _option("max_time", "End after so many seconds.")]
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
Samples = Annotated[int, _option("samples", "How many texts to make of the prompt.", "-N")]
Logprobs = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="K",
        help="In JSON: log-probabilities of each token and of the K likeliest there, 0 to 20.",
        callback=_checked,
    ),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Write texts with a NUL between each two, and in none.")
]
Usage = Annotated[bool, typer.Option("--usage", help="Show token counts and speeds on stderr.")]


def complete(
    prompt: Prompt = None,
    file: File = None,
    model: options.Model = None,
    max_tokens: MaxTokens = defaults.MAX_TOKENS,
    temperature: Temperature = defaults.TEMPERATURE,
    top_p: TopP = defaults.TOP_P,
    top_k: TopK = defaults.TOP_K,
    seed: Seed = None,
    samples: Samples = 1,
    draft: Draft = defaults.DRAFT,
    stop: Stop = None,
    until: Until = defaults.UNTIL,
    echo: Echo = False,
    special_tokens: options.SpecialTokens = False,
    as_json: AsJson = False,
    logprobs: Logprobs = None,
    null: Null = False,
    usage: Usage = False,
    threads: options.Threads = None,
    device: options.Device = None,
    ignore_memory: options.IgnoreMemory = False,
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
    codegen complete -N 5 -t 0.8 "def parse(line):"
    codegen complete --usage --draft 0 "class Stack:"
    codegen complete --special-tokens "<|endoftext|>import os"
    """
    started = time.monotonic()
    console.set_quiet(quiet)
    if echo:
        console.keep_out_of_filters()
    if not prompt and file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a PROMPT, --file, or a pipe on stdin")
    is_ranked = _is_ranked(samples, logprobs, as_json=as_json, null=null)
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
        logprobs=0 if is_ranked else logprobs,
        **({} if seed is None else {"seed": seed}),
    )
    from codegen_cli.commands.prompt_input import STDIN, read_prompt
    from codegen_cli.contract.deadline import TimeUp
    from codegen_cli.reports.completion import cut_line, make_sink, usage_line
    from codegen_cli.session.completion_run import CompletionRun

    reads_stdin = STDIN in prompt if prompt else file is None
    refuse_overwritten_prompt(file, reads_stdin=reads_stdin)
    run = CompletionRun(generate_options, samples, echo=echo, special_tokens=special_tokens)
    sink = make_sink(samples, as_json=as_json, null=null, is_ranked=is_ranked)
    try:
        asked = read_prompt(prompt or [], file, generate_options.deadline)
        texts = run.texts(asked, model, threads, device, ignore_memory=ignore_memory)
        for index, text in texts:
            sink.write(index, text)
    except TimeUp:
        run.end_by_time()
    finally:
        # Ctrl-C and SIGTERM pass through here: what was made so far is reported all the same.
        if run.has_begun:
            sink.end(run)
            if usage:
                console.show(usage_line(run))
            if not as_json:
                console.tip(cut_line(run))
    # As an exception holds on to this frame, the process ends with the model still there: freeing
    # it and its tokenizer piece by piece took 0.02 s.
    raise typer.Exit


def _is_ranked(samples: int, logprobs: int | None, *, as_json: bool, null: bool) -> bool:
    """Tell whether texts go to a terminal, the best first; refuse what no output can be."""
    if as_json and null:
        raise typer.BadParameter("give --json or --null, not both")
    if logprobs is not None and not as_json:
        raise typer.BadParameter("--logprobs needs --json")
    if samples == 1 or as_json or null:
        return False
    if not sys.stdout.isatty():
        raise typer.BadParameter(f"{samples} samples that go to no terminal need --json or --null")
    return True
