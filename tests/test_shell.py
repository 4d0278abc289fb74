"""The command line as a shell's user meets it: the start, examples, completion, colours."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from packed import write_packed

from codegen_cli.commands.app import app
from codegen_cli.terminal import console

SHELLS = ("bash", "zsh", "fish")


def stdout_of(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def commands_of(command, path=()):
    """Every command that does something, as the words that call it."""
    for name, each in getattr(command, "commands", {}).items():
        yield from commands_of(each, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(commands_of(typer.main.get_command(app)))


def test_codegen_alone_says_what_it_is_and_what_to_try(codegen):
    result = codegen()
    text = stdout_of(result)
    assert result.stderr == b""
    assert len(text.splitlines()) <= 10
    assert text.count("\n  codegen ") == 3
    assert "CodeGen" in text
    assert "codegen --help" in text


def test_what_codegen_alone_proposes_are_commands():
    from codegen_cli.commands.app import TRY

    for command, _ in TRY:
        assert (command.split()[1],) in COMMANDS or command.split()[1] == "models"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_summary_and_examples(words):
    text = COMMANDS[words].help
    summary, _, rest = text.partition("\n")
    assert summary.endswith(".")
    assert len(summary) < 80
    examples = rest.partition("\b\n")[2].splitlines()
    assert any(f"codegen {' '.join(words)}" in example for example in examples)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_examples_name_options_that_exist(words):
    for line in COMMANDS[words].help.partition("\b\n")[2].splitlines():
        typed = shlex.split(line, comments=True)
        starts = [
            i for i in range(len(typed)) if typed[i:][: len(words) + 1] == ["codegen", *words]
        ]
        for start in starts:
            called = itertools.takewhile(lambda word: word not in ("|", "&&"), typed[start:])
            used = {word for word in called if re.fullmatch("-[a-z]|--[a-z-]+", word)}
            known = {name for each in COMMANDS[words].params for name in each.opts}
            assert used <= known, line


@pytest.mark.parametrize("arguments", [(), ("--help",), ("models", "--help")])
def test_help_imports_nothing_heavy(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "codegen_cli", *arguments]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "codegen_cli.commands.app" in imported
    heavy = {"numpy", "numba", "llvmlite", "tokenizers", "huggingface_hub", "rich", "filelock"}
    assert not heavy & imported


# --- completion -----------------------------------------------------------------------------------


def completions(codegen, shell, line, **environment):
    """What typer's protocol answers when this line is being typed."""
    words = line.split(" ")
    protocol = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    wanted = {"_CODEGEN_COMPLETE": f"complete_{shell}"}
    return stdout_of(codegen(**protocol, **wanted, **environment))


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_that_calls_codegen(codegen, shell):
    script = stdout_of(
        codegen("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    )
    assert f"_CODEGEN_COMPLETE=complete_{shell}" in script
    assert "codegen" in script


@pytest.mark.parametrize("shell", SHELLS)
def test_installing_completion_writes_the_script_where_the_shell_looks(codegen, shell, tmp_path):
    stdout_of(
        codegen(
            "--install-completion",
            shell,
            HOME=str(tmp_path),
            _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
        )
    )
    place = {
        "bash": ".bash_completions/codegen.sh",
        "zsh": ".zfunc/_codegen",
        "fish": ".config/fish/completions/codegen.fish",
    }[shell]
    assert "complete_" + shell in (tmp_path / place).read_text()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "found", "not_found"),
    [
        ("codegen mo", ["models"], "complete"),
        ("codegen models ve", ["verify"], "list"),
        ("codegen complete -m 350M", ["350M-nl", "350M-multi", "350M-mono"], "nano"),
        ("codegen models show na", ["nano"], "350M-mono"),
        ("codegen complete --ec", ["--echo"], "--seed"),
    ],
)
def test_names_of_commands_options_and_models_complete(codegen, shell, line, found, not_found):
    answer = completions(codegen, shell, line)
    assert all(name in answer for name in found)
    assert not_found not in answer


def test_packed_models_complete_with_their_formats(codegen, tmp_path):
    for name in ("mine.int4", "mine.int8", "other.f16"):
        write_packed(tmp_path / "models" / f"{name}.safetensors")
    home = {"CODEGEN_HOME": str(tmp_path)}
    line = "codegen complete -m mi"
    assert completions(codegen, "bash", line, **home).split() == ["mine"]
    line = "codegen complete -m mine:"
    assert completions(codegen, "fish", line, **home).split() == ["mine:int4", "mine:int8"]


def test_completing_a_model_survives_a_broken_home_and_imports_nothing_heavy(codegen, tmp_path):
    broken = tmp_path / "file"
    broken.touch()
    line = "codegen complete -m 16B-mo"
    answer = completions(codegen, "bash", line, CODEGEN_HOME=str(broken / "home"))
    assert answer.split() == ["16B-mono"]
    script = (
        "import sys\n"
        "from codegen_cli.commands.model_names import model_names\n"
        "assert model_names('350M-mo') == ['350M-mono']\n"
        "assert not {'numpy', 'numba', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes_with_the_script(codegen, tmp_path):
    program = tmp_path / "codegen"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m codegen_cli "$@"\n')
    program.chmod(0o755)
    script = stdout_of(codegen(_CODEGEN_COMPLETE="source_bash"))
    ask = "COMP_WORDS=(codegen models ver); COMP_CWORD=2; _codegen_completion codegen"
    result = subprocess.run(
        ["bash", "--norc", "-c", f'{script}\n{ask}\necho "${{COMPREPLY[@]}}"'],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        check=True,
    )
    assert result.stdout.decode().strip() == "verify"


# --- terminals ------------------------------------------------------------------------------------


def on_terminal(*arguments, typed=b"", **environment):
    """What `codegen ARGUMENTS` shows on a terminal of 100 columns, and its exit code."""
    import pty

    process_id, terminal = pty.fork()
    if process_id == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": "100"} | environment)
        os.execv(sys.executable, [sys.executable, "-m", "codegen_cli", *arguments])
    os.write(terminal, typed)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # Linux: the other side is closed
        pass
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_bold_names_unless_no_color_is_set(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    bold = "\x1b[1m  350M-mono"
    shown, code = on_terminal("models", "list")
    assert code == 0
    assert bold in shown
    plain, code = on_terminal("models", "list", NO_COLOR="1")
    assert code == 0
    assert "\x1b" not in plain
    assert "350M-mono" in plain


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_narrow_terminal_gets_rows_of_lines_and_no_broken_word(tmp_path):
    write_packed(tmp_path / "models" / "模型.int8.safetensors")
    home = {"CODEGEN_HOME": str(tmp_path), "NO_COLOR": "1", "COLUMNS": "40"}
    shown, code = on_terminal("models", "list", **home)
    lines = shown.replace("\r\n", "\n").splitlines()
    assert code == 0
    at = lines.index("* nano")
    assert lines[at + 1 : at + 6] == [
        "    download    bundled",
        "    int4 needs  -",
        "    int8 needs  0.2 GB packed",
        "    f16 needs   -",
        "    fits        int8",
    ]
    assert "  模型" in lines


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("typed", "code", "is_left"), [(b"y\n", 0, False), (b"\n", 1, True)])
def test_rm_asks_on_a_terminal(tmp_path, typed, code, is_left):
    path = write_packed(tmp_path / "models" / "mine.int8.safetensors")
    shown, found = on_terminal("models", "rm", "mine", typed=typed, CODEGEN_HOME=str(tmp_path))
    assert "Remove" in shown.split()
    assert "[y/N]" in shown
    assert found == code
    assert path.exists() is is_left


# --- streams that do not take or give anything ----------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    "arguments",
    [
        ("complete", "-q", "-n", "2", "x"),
        ("complete", "-q", "-n", "2", "--json", "x"),
        ("score", "-q", "{file}"),
        ("score", "-q", "--json", "{file}"),
        ("score", "-q", "--tokens", "{file}"),
        ("embed", "-q", "{file}"),
        ("embed", "-q", "--json", "{file}"),
        ("embed", "-q", "{file}", "-o", "/dev/full"),
        ("models", "list", "-q"),
        ("models", "list", "-q", "--json"),
        ("models", "path", "nano"),
        ("models", "verify", "nano"),
        ("models", "default", "-q"),
        (),
        ("--version",),
        ("--help",),
        ("complete", "--help"),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_one_error(tmp_path, arguments):
    (tmp_path / "a.py").write_text("import os\n")
    words = [word.format(file=tmp_path / "a.py") for word in arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "codegen_cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    first, *hint = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert re.fullmatch("error: cannot write .*: No space left on device", first)
    assert len(hint) <= 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("complete -n 2 -t 0 x 2>&-", 0, r"\S+", ""),
        ("complete -n 2 x >&-", 0, "", ""),
        ("models rm x 2>&-", 1, "", ""),
        ("models list >&- 2>&- <&-", 0, "", ""),
        ("models path nano <&-", 0, r"/.*nano\.int8\.safetensors\n", ""),
        ("complete -q <&-", 1, "", "error: the prompt is empty\nhint: .*"),
    ],
)
def test_a_closed_stream_leads_nowhere(command, code, stdout, stderr):
    line = f"exec {shlex.quote(sys.executable)} -m codegen_cli {command}"
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert re.fullmatch(stdout, result.stdout)
    assert re.fullmatch(stderr, result.stderr.rstrip("\n"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit and /dev/zero")
def test_a_text_without_end_is_one_error():
    line = f"ulimit -v 1500000; exec {shlex.quote(sys.executable)} -m codegen_cli score /dev/zero"
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: not enough memory\nhint: ")


# --- escapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("模型 é", "模型 é"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\t", "a\\nb\\t"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert console.printable(text) == shown
