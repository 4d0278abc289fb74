"""Bytes in, bytes out: texts, arguments and names of files are the same in every locale."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from packed import write_packed

from codegen_cli.terminal import console, streams

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes")

NO_UTF8 = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "usual": {},
    "C and UTF-16": NO_UTF8 | {"LC_ALL": "C", "PYTHONIOENCODING": "utf-16"},
    "Latin-1": {"LC_ALL": "en_US.ISO-8859-1"},
    "streams in ASCII": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
}
OTHERS = {
    "C": NO_UTF8 | {"LC_ALL": "C"},
    "POSIX": NO_UTF8 | {"LC_ALL": "POSIX"},
    "C, as Python mends it": {"LC_ALL": "C"},
    "C but for messages": NO_UTF8 | {"LC_CTYPE": "C", "LC_MESSAGES": "C.utf8"},
    "unknown": NO_UTF8 | {"LC_ALL": "xx_YY.nonsense"},
    "unknown, as Python mends it": {"LC_ALL": "xx_YY.nonsense"},
    "streams in strict Latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
    "streams in UTF-16": {"PYTHONIOENCODING": "utf-16"},
}
TEXT = 'naïve = "日本 💀"\n'.encode()
# A part of it is UTF-8, and a part is not.
NAME = "naïve 日本 ".encode() + b"caf\xe9.py"


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory):
    """Where the C library finds a locale of Latin-1, which few systems have."""
    directory = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("needs localedef")
    target = directory / "en_US.ISO-8859-1"
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(target)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("localedef has no sources of locales")
    return {"LOCPATH": str(directory)}


@pytest.fixture(params=LOCALES)
def locale(request):
    """Changes to the environment."""
    if request.param == "Latin-1":
        return LOCALES[request.param] | request.getfixturevalue("latin_1")
    return LOCALES[request.param]


def run(*arguments, locale, stdin=b"", options=(), **changes):
    """Run `codegen ARGUMENTS`, of text or bytes: exit code, stdout, stderr."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LC_") and name not in ("LANG", "PYTHONUTF8", "PYTHONIOENCODING")
    }
    command = [sys.executable, *options, "-m", "codegen_cli", *arguments]
    result = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        env=environment | locale | changes,
        timeout=120,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def path(tmp_path):
    """The path of a text file, as bytes."""
    path = os.fsencode(tmp_path) + b"/" + NAME
    Path(os.fsdecode(path)).write_bytes(TEXT)
    return path


def shown(path):
    """A path as tables and JSON have it: \\xNN is a byte that is not UTF-8."""
    return path.decode("utf-8", "backslashreplace")


def test_a_latin_1_locale_is_one(latin_1):
    """Or the tests below would test nothing."""
    script = "import sys; print(sys.getfilesystemencoding())"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | LOCALES["Latin-1"] | latin_1,
        capture_output=True,
        check=True,
    )
    assert result.stdout == b"iso8859-1\n"


@pytest.mark.usefixtures("compiled_kernels")
def test_a_prompt_is_its_bytes(locale, path):
    as_argument = run("complete", "-q", "-t", "0", "-n", "4", "--echo", TEXT, locale=locale)
    assert (as_argument[0], as_argument[2]) == (0, b"")
    assert as_argument[1].startswith(TEXT)
    usual = run("complete", "-q", "-t", "0", "-n", "4", "--echo", TEXT, locale=LOCALES["usual"])
    assert as_argument == usual
    options = ("complete", "-q", "-t", "0", "-n", "4", "--echo")
    assert run(*options, locale=locale, stdin=TEXT) == usual
    assert run(*options, "--file", path, locale=locale) == usual


@pytest.mark.parametrize("locale", OTHERS.values(), ids=OTHERS)
def test_every_other_locale_is_overruled_too(locale):
    code, stdout, stderr = run("models", "path", "naïve 日本".encode(), locale=locale)
    assert (code, stdout) == (1, b"")
    assert stderr.decode().startswith("error: unknown model 'naïve 日本'\n")
    code, stdout, stderr = run("models", "path", b"./caf\xe9", locale=locale)
    assert (code, stdout) == (1, b"")
    assert "caf\\xe9" in stderr.decode()


def test_an_argument_that_is_not_utf8_is_refused_in_every_locale(locale):
    code, stdout, stderr = run("complete", "-q", b"caf\xe9", locale=locale)
    assert (code, stdout) == (1, b"")
    assert stderr.startswith(b"error: argument 1 is not UTF-8 text: found byte 0xE9 after 'caf'")


@pytest.mark.usefixtures("compiled_kernels")
def test_score_names_the_file(locale, path):
    code, stdout, stderr = run("score", "-q", path, locale=locale)
    assert (code, stderr) == (0, b"")
    assert shown(path) in stdout.decode()
    code, stdout, stderr = run("score", "-q", "--json", "--tokens", path, locale=locale)
    assert (code, stderr) == (0, b"")
    [scored] = json.loads(stdout.decode("ascii"))["files"]
    assert scored["file"] == shown(path)
    assert b"".join(bytes(each["bytes"]) for each in scored["token_scores"]) == TEXT


@pytest.mark.usefixtures("compiled_kernels")
def test_embed_names_the_file(locale, path, tmp_path):
    code, stdout, stderr = run("embed", "-q", "--json", path, locale=locale)
    assert (code, stderr) == (0, b"")
    assert json.loads(stdout.decode("ascii"))["file"] == shown(path)
    target = path + b".npy"
    assert run("embed", "-q", path, "-o", target, locale=locale) == (0, b"", b"")
    assert np.load(os.fsdecode(target)).shape[0] == 1


def test_a_missing_file_is_named(locale, path):
    code, stdout, stderr = run("score", path + b".gone", locale=locale)
    assert (code, stdout) == (1, b"")
    assert f"error: cannot read {shown(path)}.gone: " in stderr.decode()


@pytest.fixture
def odd_home(tmp_path):
    """A CODEGEN_HOME, as bytes, that holds a packed model."""
    home = os.fsencode(tmp_path) + b"/" + NAME
    write_packed(Path(os.fsdecode(home)) / "models" / "mine.int8.safetensors")
    return home


def test_models_are_named_wherever_they_lie(locale, odd_home):
    home = {"CODEGEN_HOME": odd_home}
    file = odd_home + b"/models/mine.int8.safetensors"
    assert run("models", "path", "mine", locale=locale, **home) == (0, file + b"\n", b"")
    code, stdout, _ = run("models", "path", "--json", "mine", locale=locale, **home)
    assert json.loads(stdout.decode("ascii"))["path"] == shown(file)
    code, stdout, _ = run("models", "list", "-q", "--json", locale=locale, **home)
    assert json.loads(stdout.decode("ascii"))["models_dir"] == shown(odd_home + b"/models")
    code, stdout, _ = run("models", "show", "mine", locale=locale, **home)
    assert shown(file) in stdout.decode()
    code, stdout, _ = run("models", "show", "mine", "--json", locale=locale, **home)
    assert shown(file) in json.loads(stdout.decode("ascii"))["formats"][0]["path"]
    code, stdout, _ = run("models", "verify", "mine", locale=locale, **home)
    assert code == 0
    assert shown(file) in stdout.decode()
    code, stdout, _ = run("models", "verify", "mine", "--json", locale=locale, **home)
    assert code == 0
    assert json.loads(stdout.decode("ascii"))["files"][0]["path"] == shown(file)


def test_a_default_is_kept_by_its_bytes(locale, odd_home):
    home = {"CODEGEN_HOME": odd_home}
    file = odd_home + b"/models/mine.int8.safetensors"
    elsewhere = odd_home + b"/elsewhere.safetensors"
    Path(os.fsdecode(file)).rename(os.fsdecode(elsewhere))
    assert run("models", "default", elsewhere, locale=locale, **home) == (0, b"", b"")
    found = run("models", "default", locale=locale, **home)
    assert found == (0, elsewhere + b"\n", b"")
    code, stdout, _ = run("models", "default", "--json", locale=locale, **home)
    assert json.loads(stdout.decode("ascii"))["default"] == shown(elsewhere)
    code, stdout, _ = run("models", "import", elsewhere, locale=locale, **home)
    assert (code, stdout) == (0, odd_home + b"/models/tiny.int8.safetensors\n")
    code, stdout, _ = run("models", "rm", "tiny", "--yes", "--json", locale=locale, **home)
    removed = odd_home + b"/models/tiny.int8.safetensors"
    assert json.loads(stdout.decode("ascii"))["removed"][0]["path"] == shown(removed)


def test_a_checkpoint_in_the_cache_is_named(locale, path):
    cache = Path(os.fsdecode(path + b".hub"))
    snapshot = cache / "hub" / "models--someone--model" / "snapshots" / ("0" * 40)
    config = small_config()
    write_checkpoint(snapshot, config, random_tensors(config, seed=1))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    found = run("download", "-q", "someone/model", locale=locale, HF_HOME=path + b".hub")
    assert found == (0, os.fsencode(snapshot) + b"\n", b"")


@pytest.mark.usefixtures("compiled_kernels")
def test_a_home_and_a_model_of_any_name_run(odd_home, home):
    """Kernels are linked from there, the tokenizer is read, and what was packed is run."""
    cache = Path(os.fsdecode(odd_home)) / "cache"
    shutil.copytree(home / "cache", cache)
    config = small_config(vocab_size=51200, n_positions=64)
    checkpoint = Path(os.fsdecode(odd_home)) / "tiny"
    write_checkpoint(checkpoint, config, random_tensors(config, seed=1), container="torch")
    packed = odd_home + b"/packed.safetensors"
    locale = OTHERS["C"] | {"CODEGEN_HOME": odd_home}
    code, stdout, stderr = run("quantize", "-q", checkpoint, "-o", packed, locale=locale)
    assert (code, stdout, stderr) == (0, b"", b"")
    code, stdout, stderr = run(
        *("complete", "-q", "-n", "1", "--json", "-m", packed, "x"), locale=locale
    )
    assert (code, stderr) == (0, b"")
    assert json.loads(stdout.decode("ascii"))["object"] == "text_completion"
    code, _, stderr = run("complete", "-q", "-n", "1", "-m", checkpoint, "x", locale=locale)
    assert (code, stderr) == (0, b"")


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize("colours", [{}, {"NO_COLOR": "1"}], ids=["heat map", "rows"])
def test_a_terminal_gets_utf8_in_every_locale(locale, path, colours):
    import pty

    Path(os.fsdecode(path)).write_bytes(TEXT + b"import os\r\n")
    terminal, stdout = pty.openpty()
    command = [sys.executable, "-m", "codegen_cli", "score", "--tokens", path]
    changes = {"TERM": "xterm-256color", "COLUMNS": "200", **locale, **colours}
    with subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, env=os.environ | changes
    ) as process:
        os.close(stdout)
        drawn = b""
        try:
            while part := os.read(terminal, 1 << 16):
                drawn += part
        except OSError:  # how Linux tells that the other end is closed
            pass
        assert b"Traceback" not in process.stderr.read()
    os.close(terminal)
    assert process.returncode == 0
    assert "ïve" in drawn.decode()
    if not colours:  # which show characters; rows have the bytes that their tokens are made of
        assert all(character in drawn.decode() for character in "日本💀")


@pytest.mark.parametrize("options", [(), ("-X", "utf8=0"), ("-X", "utf8"), ("-I",), ("-E", "-s")])
def test_python_is_started_anew_at_most_once(options):
    code, stdout, stderr = run("--version", locale=OTHERS["C"], options=options)
    assert (code, stderr) == (0, b"")
    assert stdout.startswith(b"codegen ")


def test_the_process_and_its_streams_are_the_same_afterwards():
    """The shell waits for this process, and its pipes are read to their ends."""
    script = (
        "import os, sys\n"
        "from codegen_cli import __main__\n"
        "print(os.getpid(), sys.flags.utf8_mode, sys.argv[1:], file=sys.stderr, flush=True)\n"
        "__main__.main()\n"
    )
    command = [sys.executable, "-c", script, "complete", "-q", "-n", "1", "--echo", "naïve", ""]
    with subprocess.Popen(
        command,
        env=os.environ | OTHERS["C"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        stdout, stderr = process.communicate(timeout=120)
    first, second = stderr.decode().splitlines()
    assert first.startswith(f"{process.pid} 0 ")
    assert second == f"{process.pid} 1 ['complete', '-q', '-n', '1', '--echo', 'naïve', '']"
    assert stdout.decode().startswith("naïve")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("日本 é", '"\\u65e5\\u672c \\u00e9"'),
        ("💀", '"\\ud83d\\udc80"'),
        ("caf\udce9", '"caf\\\\xe9"'),
        ("\ud800", '"\\\\ud800"'),
        ("\\udce9", '"\\\\udce9"'),
        (Path("/a/b"), '"/a/b"'),
        ({"\udcff": [1.5, None, True]}, '{"\\\\xff": [1.5, null, true]}'),
    ],
)
def test_json_is_ascii_without_lone_surrogates(value, text):
    assert streams.json_text(value) == text
    json.loads(text).encode() if isinstance(value, str) else None


def test_json_has_no_number_that_is_none():
    with pytest.raises(ValueError, match="not JSON compliant"):
        streams.json_text(float("nan"))


def test_bytes_that_a_tokenizer_kept_are_written_as_they_are(capsysbinary):
    streams.write_line("caf\udce9")
    assert capsysbinary.readouterr().out == b"caf\xe9\n"


def test_an_answer_is_read_in_every_encoding(locale, tmp_path):
    import pty

    packed = write_packed(tmp_path / "models" / "mine.int8.safetensors")
    terminal, side = pty.openpty()
    command = [sys.executable, "-m", "codegen_cli", "models", "rm", "mine"]
    environment = os.environ | locale | {"CODEGEN_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, env=environment
    ) as process:
        os.write(terminal, b"yes\n")
        assert process.wait(timeout=120) == 0
    os.close(side)
    os.close(terminal)
    assert not packed.exists()


def test_a_byte_that_is_not_utf8_is_shown_as_one():
    assert console.printable(os.fsdecode(b"caf\xe9\x1b")) == "caf\\xe9\\x1b"
