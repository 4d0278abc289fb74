"""The command tree; a user's mistake -> a message on stderr and an exit code.

    0 done    1 failed    2 wrong usage    129 SIGHUP    130 Ctrl-C    143 SIGTERM

When stdout is closed by its reader, it is 1 and nothing is said. A bug keeps its traceback.
Imports nothing heavy: `codegen --help` must answer at once.
"""

import sys
from typing import Annotated

import typer

from codegen_cli.commands.batch import batch
from codegen_cli.commands.bench import bench
from codegen_cli.commands.complete import complete
from codegen_cli.commands.completion_script import blaming_home
from codegen_cli.commands.doctor import doctor
from codegen_cli.commands.download import download
from codegen_cli.commands.embed import embed
from codegen_cli.commands.help_text import Command, Group
from codegen_cli.commands.models import app as models
from codegen_cli.commands.quantize import quantize
from codegen_cli.commands.ray_option import RayCommand
from codegen_cli.commands.score import score
from codegen_cli.contract.version import __version__
from codegen_cli.terminal import console, streams, tables
from quantize.files.errors import UserError

app = typer.Typer(
    name="codegen",
    help="Complete code with Salesforce's CodeGen models on an ordinary CPU.",
    epilog='Start with: codegen complete "def fib(n):"',
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(complete)
app.command(cls=RayCommand)(batch)
for command in (score, embed, download, quantize, doctor, bench):
    app.command(cls=Command)(command)
app.add_typer(models, name="models")

WHAT = "codegen completes code with Salesforce's CodeGen models on this computer's processor."
TRY = [
    ('codegen complete "def fib(n):"', "the small bundled model answers, offline"),
    ("codegen models list", "the real models, and which of them fit here"),
    ("codegen download 350M-mono -f int4", "get one, packed as int4"),
]
MORE = "More: codegen --help, codegen COMMAND --help, codegen --install-completion"


def _show_version(wanted: bool) -> None:
    if wanted:
        streams.write_line(f"codegen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        tables.prose(f"{WHAT}\n\nTry:")
        tables.facts([(f"  {command}", text) for command, text in TRY])
        tables.prose(f"\n{MORE}")


def run() -> None:
    """Run the command that sys.argv names."""
    try:
        with blaming_home():
            app(prog_name="codegen")
    except UserError as error:
        console.error(error.message, error.hint)
        sys.exit(1)
    except BrokenPipeError:  # while typer completes a word; elsewhere it does this itself
        sys.exit(1)
    except MemoryError:
        console.error("not enough memory", "Close other programs, or give less to read at once.")
        sys.exit(1)
