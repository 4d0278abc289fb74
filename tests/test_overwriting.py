"""Output that would replace its own input is refused while that is still there."""

import os
import shlex
import subprocess
import sys

import pytest

TEXT = "def fib(n):\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


def run(line, directory):
    program = f"{shlex.quote(sys.executable)} -m codegen_cli"
    return subprocess.run(
        ["sh", "-c", line.replace("codegen", program)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "x").write_text(TEXT)
    (tmp_path / "other").write_text(TEXT)
    (tmp_path / "link").symlink_to("x")
    os.link(tmp_path / "x", tmp_path / "hard")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("codegen complete --file x > x", "stdout is x, the file to complete"),
        ("codegen complete --file link > x", "stdout is link, the file to complete"),
        ("codegen complete --file hard > x", "stdout is hard, the file to complete"),
        ("codegen complete --json --file x 'more' > x", "stdout is x, the file to complete"),
        ("codegen complete < x > x", "stdout is the file that stdin reads"),
        ("codegen complete - more < x > x", "stdout is the file that stdin reads"),
        ("codegen score other x > x", "stdout is a file to read: x"),
        ("codegen score - < x > x", "stdout is a file to read: stdin"),
        ("codegen embed x > x", "stdout is a file to read: x"),
    ],
)
def test_what_a_shell_has_emptied_is_said_to_be(directory, line, error):
    result = run(line, directory)
    assert result.returncode == 2
    message, hint = result.stderr.splitlines()
    assert message == f"error: {error}; the shell's > emptied it before codegen began"
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    "line",
    [
        "codegen complete --file x 1<> x",
        "codegen complete < x 1<> x",
        "codegen score x 1<> x",
        "codegen score x >> x",
        "codegen embed --json x >> link",
        "codegen embed -o x x",
        "codegen embed -o link other x",
        "codegen embed -o x hard",
        "codegen embed --json -o x - < x",
    ],
)
def test_what_is_still_there_stays(directory, line):
    result = run(line, directory)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "emptied" not in result.stderr
    assert (directory / "x").read_text() == TEXT


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    "line",
    ["codegen complete -q -n 8 --file x >> x", "codegen complete -q -n 8 < x >> x"],
)
def test_appending_completes_a_file(directory, line):
    assert run(line, directory).returncode == 0
    text = (directory / "x").read_text()
    assert text.startswith(TEXT)
    assert len(text) > len(TEXT)


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    "line",
    [
        "codegen complete -q -n 1 a < x > x",  # reads no stdin
        "codegen complete -q -n 1 --file x > other",
        "codegen score -q /dev/null > /dev/null",
        "codegen embed -q x -o other",
        "codegen score -q x x",
    ],
)
def test_what_is_no_regular_file_or_another_one_is_not_refused(directory, line):
    result = run(line, directory)
    assert (result.returncode, result.stderr) == (0, "")


def test_help_tells_what_a_filter_gets():
    from codegen_cli.commands.complete import Echo

    assert "editor's filter" in str(Echo.__metadata__[0].help)
