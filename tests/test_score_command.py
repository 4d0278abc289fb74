"""`codegen score` as a process of its own: tables, tokens, heat maps and JSON."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

import codegen_cli
from codegen_cli.commands.prompt_input import read_texts

TEXT = 'def add(a, b):\n    """Größe ✓ 日本"""\n\treturn a\n'
ROW = re.compile(r"(.*):(\d+):(\d+)\t([\d.e+-]+)\t([\d.]+)\t(\".*\")\t(\".*\")\t([\d.e+-]+)")

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.fixture(scope="module")
def model():
    with codegen_cli.load("nano") as model:
        yield model


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.py").write_bytes(TEXT.encode())
    (tmp_path / "b [b].py").write_bytes(b"import os\r\n")
    return [str(tmp_path / "a.py"), str(tmp_path / "b [b].py")]


def output_of(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def on_terminal(*arguments, **environment):
    """stdout of `codegen ARGUMENTS` on a pseudo-terminal."""
    import pty

    terminal, stdout = pty.openpty()
    command = [sys.executable, "-m", "codegen_cli", *arguments]
    changes = {"TERM": "xterm-256color", "COLUMNS": "120", **environment}
    with subprocess.Popen(command, stdout=stdout, env=os.environ | changes) as process:
        os.close(stdout)
        output = b""
        while True:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not part:
                break
            output += part
    os.close(terminal)
    assert process.returncode == 0
    return output.decode().replace("\r\n", "\n")


def test_a_line_for_each_file_and_one_for_all(codegen, model, files):
    header, *lines = output_of(codegen("score", "-q", *files)).splitlines()
    assert header.split() == ["bits/byte", "perplexity", "tokens", "bytes", "file"]
    scores = [model.score(text) for text in read_texts(files)]
    assert len(lines) == 3
    for line, score, name in zip(lines, scores, files, strict=False):
        bits, perplexity, tokens, n_bytes, found = line.split(maxsplit=4)
        assert found == name
        assert (int(tokens), int(n_bytes)) == (score.n_scored, score.n_bytes)
        assert float(bits) == pytest.approx(score.bits_per_byte, abs=1e-4)
        assert float(perplexity) == pytest.approx(score.perplexity, rel=1e-3)
    n_bytes = sum(score.n_bytes for score in scores)
    bits = -sum(score.log_likelihood for score in scores) / math.log(2) / n_bytes
    total = lines[-1].split()
    assert total[-1] == "total"
    assert float(total[0]) == pytest.approx(bits, abs=1e-4)
    assert int(total[3]) == n_bytes


def test_one_file_has_no_total_and_a_dash_is_stdin(codegen, files):
    from_file = output_of(codegen("score", "-q", files[0])).splitlines()
    piped = output_of(codegen("score", "-q", "-", stdin=TEXT.encode())).splitlines()
    assert len(from_file) == len(piped) == 2
    assert piped[1].split()[:4] == from_file[1].split()[:4]
    assert piped[1].split()[4] == "-"


def test_threads_and_the_environment_choose_as_in_complete(codegen, files):
    expected = output_of(codegen("score", "-q", files[0]))
    environment = {"CODEGEN_MODEL": "nano", "CODEGEN_THREADS": "1", "CODEGEN_QUIET": "1"}
    result = codegen("score", files[0], **environment)
    assert (output_of(result), result.stderr) == (expected, b"")
    assert b"unknown model 'x'" in codegen("score", files[0], CODEGEN_MODEL="x").stderr


def test_json_is_one_object_for_all_files(codegen, model, files):
    result = codegen("score", "-q", "--json", *files)
    report = json.loads(output_of(result))
    assert report["is_complete"] is True
    lines = result.stdout.splitlines()
    assert [json.loads(line.rstrip(b",")) for line in lines[1:-1]] == report["files"]
    n_positions = model.config.n_positions
    assert report["model"] == "nano:int8"
    assert (report["n_positions"], report["stride"]) == (n_positions, n_positions // 2)
    assert [file["file"] for file in report["files"]] == files
    score = model.score(TEXT)
    first = report["files"][0]
    assert first["log_likelihood"] == score.log_likelihood
    assert first["bits_per_byte"] == score.bits_per_byte
    assert first["perplexity"] == score.perplexity
    assert (first["tokens"], first["bytes"]) == (len(score.ids), len(TEXT.encode()))
    assert first["windows"] == 1
    assert "token_scores" not in first
    for field in ("bytes", "tokens", "log_likelihood"):
        assert report["total"][field] == pytest.approx(sum(f[field] for f in report["files"]))


def test_json_tokens_join_to_the_text(codegen, model, files):
    report = json.loads(output_of(codegen("score", "-q", "--json", "--tokens", files[0])))
    tokens = report["files"][0]["token_scores"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == TEXT
    score = model.score(TEXT)
    assert [token["log_likelihood"] for token in tokens] == score.log_likelihoods.tolist()
    assert [token["likeliest"]["id"] for token in tokens] == score.likeliest_ids.tolist()
    returned = next(token for token in tokens if token["token"] == "return")
    assert (returned["line"], returned["column"]) == (3, 2)


def test_tokens_in_a_pipe_are_lines_of_fields(codegen, model, files):
    result = codegen("score", "--tokens", *files)
    header, *lines = output_of(result).splitlines()
    assert header.split("\t") == [
        *("place", "probability", "bits", "token", "likeliest", "its_probability")
    ]
    rows = [ROW.fullmatch(line) for line in lines]
    assert all(rows)
    scores = [model.score(text) for text in read_texts(files)]
    found = [float(row[4]) for row in rows]
    expected = [math.exp(value) for score in scores for value in score.log_likelihoods]
    assert found == pytest.approx(expected, rel=0.01)
    spelled = [row[6] for row in rows]
    assert '"\\t"' in spelled
    assert '"\\xa5"' in spelled  # 日 is two tokens
    assert [row[6] for row in rows if row[1] == files[1]][-1] in ('"\\r\\n"', '"\\n"')
    returned = next(row for row in rows if row[6] == '"return"')
    assert (returned[1], returned[2], returned[3]) == (files[0], "3", "2")
    notes = result.stderr.decode()
    assert f"{files[0]}: " in notes
    assert "total: " in notes
    assert "\x1b" not in result.stdout.decode() + notes


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_tokens_on_a_terminal_are_a_heat_map(files):
    output = on_terminal("score", "-q", "--tokens", files[0])
    assert "\x1b[1;37;41m" in output  # white on red: below 0.1 %
    plain = re.sub(r"\x1b\[[\d;]*m", "", output)
    assert re.match(rf"{re.escape(files[0])}:\s[\d.]+ bits per byte", plain)
    lines = plain[plain.index("\n     1  ") :].splitlines()
    assert [line.rstrip("↵") for line in lines[1:4]] == [
        "     1  def add(a, b):",
        '     2      """Größe ✓ 日本"""',
        "     3      return a",
    ]
    assert "50 % and more" in lines[4]
    assert re.fullmatch(r'line \d, column \d+: ".+" [\d<. ]+ %, expected ".+" [\d.]+ %', lines[5])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colours_gets_the_lines(files, environment):
    output = on_terminal("score", "-q", "--tokens", files[0], **environment)
    assert output.startswith("place\tprobability")
    assert "\x1b" not in output


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_what_a_terminal_would_act_on_is_escaped(tmp_path):
    (tmp_path / "evil.txt").write_bytes(b"a\x1b[2Jb\rc [bold]d[/]")
    output = on_terminal("score", "-q", "--tokens", str(tmp_path / "evil.txt"))
    plain = re.sub(r"\x1b\[[\d;]*m", "", output)
    assert "     1  a\\x1b[2Jb\\rc [bold]d[/]" in plain
    assert "\x1b[2J" not in output


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_tabs_lead_to_the_same_columns_whatever_stands_before_them(tmp_path):
    (tmp_path / "tabs.go").write_text("\tx\t1\n日本\ty\nabc\tz\n")
    output = on_terminal("score", "-q", "--tokens", str(tmp_path / "tabs.go"))
    lines = re.sub(r"\x1b\[[\d;]*m|↵", "", output).splitlines()
    assert "     1      x   1" in lines
    assert "     2  日本    y" in lines
    assert "     3  abc z" in lines


def test_a_long_file_says_how_it_is_read(codegen, model, tmp_path):
    n_positions, stride = model.config.n_positions, model.config.n_positions // 2
    (tmp_path / "long.py").write_text("".join(f"value_{i} = {i}\n" for i in range(n_positions)))
    result = codegen("score", "-m", "nano", str(tmp_path / "long.py"))
    tokens = int(output_of(result).splitlines()[1].split()[2])
    n_windows = math.ceil(tokens / stride) - 1
    note = result.stderr.decode()
    assert f"{tokens} tokens in {n_windows} windows of {n_positions}, each {stride} further" in note
    assert "stride" in note


def test_an_empty_file_has_no_numbers_and_is_no_error(codegen, tmp_path, files):
    (tmp_path / "empty").touch()
    result = codegen("score", "-m", "nano", str(tmp_path / "empty"), files[0])
    empty, whole, total = output_of(result).splitlines()[1:]
    assert empty.split()[:4] == ["-", "-", "0", "0"]
    assert total.split()[:4] == whole.split()[:4]
    assert b"empty is empty" in result.stderr
    report = json.loads(output_of(codegen("score", "-q", "--json", str(tmp_path / "empty"))))
    assert report["total"] == {
        "bytes": 0,
        "tokens": 0,
        "log_likelihood": 0.0,
        "bits_per_byte": None,
        "perplexity": None,
    }


@pytest.mark.parametrize("command", ["score", "embed"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "cannot read {}: No such file or directory"),
        (".", None, "cannot read {}: Is a directory"),
        ("utf16", b"\xff\xfea\x00", "{} is not UTF-8 text: found byte 0xFF at offset 0"),
        ("binary", b"\x7fELF\x00", "{} is not UTF-8 text: found byte 0x00 at offset 4"),
    ],
)
def test_a_file_that_is_no_text_is_an_error_before_any_result(
    codegen, tmp_path, files, command, name, content, message
):
    path = str(tmp_path / name) if name != "." else str(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = codegen(command, "-q", files[0], path)
    assert (result.returncode, result.stdout) == (1, b"")
    error, hint = result.stderr.decode().splitlines()
    assert error == f"error: {message.format(path)}"
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("command", ["score", "embed"])
def test_without_a_file_the_usage_is_wrong(codegen, command):
    result = codegen(command)
    assert result.returncode == 2
    assert b"Missing argument 'FILE" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("command", ["score", "embed"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_within_a_second(tmp_path, command, number, code):
    (tmp_path / "a.py").write_text("import os\n")
    (tmp_path / "long.py").write_text("".join(f"value_{i} = {i}\n" for i in range(100_000)))
    arguments = [sys.executable, "-m", "codegen_cli", command, "--json", "--threads", "4"]
    process = subprocess.Popen(
        [*arguments, "a.py", "long.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    begun = process.stdout.readline()  # score: the model is loaded; embed: a.py is done
    time.sleep(1.5)
    process.send_signal(number)
    sent = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - sent < 1
    assert process.returncode == code
    assert b"Traceback" not in stderr
    if command == "score":
        report = json.loads(begun + stdout)
        assert "long.py" not in [file["file"] for file in report["files"]]
        assert report["is_complete"] is False
    else:
        assert json.loads(begun)["file"] == "a.py"
        assert stdout == b""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_json_of_an_interrupted_run_holds_what_was_done(model, tmp_path, number):
    (tmp_path / "a.py").write_text("import os\n")
    (tmp_path / "long.py").write_text("".join(f"value_{i} = {i}\n" for i in range(100_000)))
    command = [sys.executable, "-m", "codegen_cli", "score", "--json", "a.py", "long.py", "a.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        begun = process.stdout.readline()  # ends where the first file's line begins
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
    report = json.loads(begun + rest)
    assert [file["file"] for file in report["files"]] == ["a.py"]
    assert report["files"][0]["log_likelihood"] == model.score("import os\n").log_likelihood
    assert report["total"]["bytes"] == len("import os\n")
    assert report["is_complete"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_many_files_are_read_one_by_one_and_pipes_once(tmp_path):
    (tmp_path / "a").write_text("one")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["two"])
    writer.start()
    judged = []
    names = [str(tmp_path / "a"), str(tmp_path / "pipe"), str(tmp_path / "a")]
    texts = read_texts(names, lambda name, text: judged.append(text))
    writer.join()
    assert judged == ["one", "two"]
    (tmp_path / "pipe").unlink()  # a second reading would wait for a second writer
    (tmp_path / "a").write_text("changed")
    assert list(texts) == ["changed", "two", "changed"]


def test_a_closed_pipe_is_silent(tmp_path):
    (tmp_path / "long.py").write_text("".join(f"value_{i} = {i}\n" for i in range(3000)))
    command = [sys.executable, "-m", "codegen_cli", "score", "-q", "--tokens", "long.py", "long.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 1
