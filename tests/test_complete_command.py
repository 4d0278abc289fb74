"""`codegen complete` as a process of its own, on the bundled model: what goes in and comes out."""

import json
import os
import re
import subprocess
import sys

import pytest
from endless import N_POSITIONS, write_endless
from pseudo_terminal import codegen_on_terminal

from codegen_cli.machine.places import bundled_model
from codegen_cli.text.tokenizer import Tokenizer
from quantize.packed.packed_file import read_packed_file

GREEDY = ("-q", "-t", "0", "-n", "24")
BUNDLED = read_packed_file(bundled_model())


def text_of(result):
    """stdout of a run that must have succeeded."""
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_without_a_model_the_bundled_one_answers_and_a_terminal_is_told_once():
    shown, code = codegen_on_terminal("complete", "-n", "8", "def fib(n):")
    assert code == 0
    assert shown.count("nano") == 1
    assert "  codegen download 350M-mono --format int4  (-q" in shown


def test_quiet_leaves_stderr_empty(codegen):
    result = codegen("complete", *GREEDY, "def fib(n):")
    assert text_of(result)
    assert result.stderr == b""


def test_naming_the_bundled_model_needs_no_note(codegen):
    assert b"nano" not in codegen("complete", "-m", "nano", "-n", "1", "x").stderr
    assert b"nano" not in codegen("complete", "-n", "1", "x", CODEGEN_MODEL="nano").stderr


def test_the_same_seed_gives_the_same_text_on_any_number_of_threads(codegen):
    def sample(seed, threads):
        options = ("-q", "-t", "2", "-n", "24", "--until", "none", "--threads", threads)
        return text_of(codegen("complete", *options, "--seed", seed, "import os\n"))

    assert sample("7", "1") == sample("7", "3")
    assert sample("7", "1") != sample("8", "1")


def test_drafts_change_no_byte(codegen):
    def sample(*options, **environment):
        options = ("-q", "-t", "0.5", "-n", "64", "--until", "none", "--seed", "3", *options)
        return text_of(codegen("complete", *options, "import os\n" * 8, **environment))

    whole = sample()
    assert sample("--draft", "0") == whole
    assert sample("--draft", "64") == whole
    usage = json.loads(sample("--json"))["usage"]["completion_tokens_details"]
    # At least one, whatever steps cost here: it is how that is learned.
    assert usage["accepted_prediction_tokens"] + usage["rejected_prediction_tokens"] > 0
    assert min(usage.values()) >= 0
    usage = json.loads(sample("--json", CODEGEN_DRAFT="0"))["usage"]["completion_tokens_details"]
    assert usage == {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}


def test_arguments_are_joined_as_they_are_and_a_dash_is_stdin(codegen):
    whole = text_of(codegen("complete", *GREEDY, "--echo", "import math\n\ndef area("))
    piped = codegen("complete", *GREEDY, "--echo", "-", "def ", "area(", stdin=b"import math\n\n")
    assert text_of(piped) == whole


def test_without_arguments_stdin_is_the_prompt(codegen):
    assert text_of(codegen("complete", *GREEDY, stdin=b"def fib(n):")) == text_of(
        codegen("complete", *GREEDY, "def fib(n):")
    )


def test_a_file_begins_the_prompt(codegen, tmp_path):
    (tmp_path / "start.py").write_bytes(b"import math\n\n")
    start = ("--file", str(tmp_path / "start.py"))
    assert text_of(codegen("complete", *GREEDY, "--echo", *start, "def f(")).startswith(
        "import math\n\ndef f("
    )
    assert text_of(codegen("complete", *GREEDY, "--echo", *start)).startswith("import math\n\n")


@pytest.mark.parametrize(
    "prompt", [b"\xef\xbb\xbfx = 1\r\ndef f(", "größe = '✓'\n\t\n".encode(), b"no newline  "]
)
def test_echo_keeps_every_byte_of_the_prompt(codegen, prompt):
    result = codegen("complete", *GREEDY, "--echo", stdin=prompt)
    assert result.returncode == 0
    assert result.stdout.startswith(prompt)


def test_a_stop_text_ends_the_completion_and_is_not_printed(codegen):
    options = (*GREEDY, "--until", "none")
    whole = text_of(codegen("complete", *options, "def add(a, b):"))
    stop = whole[len(whole) // 2 :][:3]
    stopped = text_of(
        codegen("complete", *options, "--stop", "@@", "--stop", stop, "def add(a, b):")
    )
    assert stopped == whole[: whole.index(stop)]


def test_json_has_the_shape_of_openais_text_completion(codegen):
    result = codegen("complete", *GREEDY, "--json", "--seed", "5", "def fib(n):")
    completion = json.loads(text_of(result))
    assert result.stdout.count(b"\n") == 1
    assert completion["object"] == "text_completion"
    assert completion["model"] == "nano:int8"
    assert completion["seed"] == 5
    [choice] = completion["choices"]
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["text"] == text_of(codegen("complete", *GREEDY, "def fib(n):"))
    usage = completion["usage"]
    assert usage["prompt_tokens"] == len(Tokenizer.from_packed(BUNDLED).encode("def fib(n):"))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert set(completion["timings"]) == {
        "load_seconds",
        "prefill_seconds",
        "prefill_tokens_per_second",
        "decode_seconds",
        "decode_tokens_per_second",
    }
    assert all(value > 0 for value in completion["timings"].values())


def test_reaching_the_token_limit_is_reported_as_length(codegen):
    options = ("--json", "-q", "-t", "0", "-n", "3", "--until", "none")
    completion = json.loads(text_of(codegen("complete", *options, "import os\n")))
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(("options", "n_tokens"), [((), 9), (("--special-tokens",), 3)])
def test_end_of_text_in_a_pipe_or_argument_is_text_unless_asked_for(codegen, options, n_tokens):
    prompt = "<|endoftext|>def f"
    arguments = ("--json", "-n", "1", *GREEDY[:3], *options)
    piped = codegen("complete", *arguments, stdin=prompt.encode())
    assert json.loads(text_of(piped))["usage"]["prompt_tokens"] == n_tokens
    given = codegen("complete", *arguments, prompt)
    assert json.loads(text_of(given))["usage"]["prompt_tokens"] == n_tokens


def test_usage_goes_to_stderr(codegen):
    result = codegen("complete", *GREEDY, "--usage", "def fib(n):")
    assert re.search(rb"prompt 5 tokens .* completion \d+ tokens", result.stderr)


def test_a_long_prompt_keeps_its_tail_from_a_line_start(codegen):
    n_positions = BUNDLED.config.n_positions
    prompt = "".join(f"value_{i} = {i}\n" for i in range(n_positions)).encode()
    result = codegen("complete", "-m", "nano", "-t", "0", "-n", "64", "--json", stdin=prompt)
    usage = json.loads(text_of(result))["usage"]
    assert n_positions - 128 < usage["prompt_tokens"] <= n_positions - 64
    note = result.stderr.decode()
    assert f"its last {usage['prompt_tokens']} tokens, from line" in note
    line = int(re.search(r"from line (\d+)", note)[1])
    tail = b"".join(prompt.splitlines(keepends=True)[line - 1 :])
    assert (
        json.loads(codegen("complete", "-q", "--json", "-n", "1", stdin=tail).stdout)["usage"][
            "prompt_tokens"
        ]
        == usage["prompt_tokens"]
    )


def test_a_full_context_ends_with_length(codegen, tmp_path):
    prompt = "".join(f"value_{i} = {i}\n" for i in range(N_POSITIONS)).encode()
    options = ("-m", str(write_endless(tmp_path)), "-q", "--json", "--until", "none", "-n", "5000")
    completion = json.loads(text_of(codegen("complete", *options, stdin=prompt)))
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"]["total_tokens"] == N_POSITIONS


def test_no_escape_codes_reach_a_pipe(codegen):
    result = codegen("complete", "-n", "24", "--usage", "def fib(n):")
    assert b"\x1b" not in result.stdout + result.stderr


def test_time_that_is_up_ends_the_completion_without_an_error(codegen):
    options = ("-q", "--json", "--until", "none", "-n", "400", "--max-time", "0.000001")
    completion = json.loads(text_of(codegen("complete", *options, "x")))
    assert completion["choices"] == [
        {
            "text": "",
            "index": 0,
            "finish_reason": "length",
            "end_reason": "time",
            "logprobs": None,
        }
    ]


def test_every_command_shows_examples_in_its_help(codegen):
    for command in ("complete", "score", "embed", "quantize", "download"):
        assert f"codegen {command} " in text_of(codegen(command, "--help"))


@pytest.mark.parametrize(
    ("options", "document"), [((), "<|endoftext|>x = 1  "), (("--special-tokens",), "x = 1  ")]
)
def test_where_a_function_ends_is_read_in_the_whole_prompt(options, document):
    script = (
        "import sys, codegen_cli.session.language_model as module\n"
        "generate = module.generate\n"
        "def told(model, vocabulary, ids, options, prompt, n_dropped):\n"
        "    print(repr(prompt), file=sys.stderr)\n"
        "    return generate(model, vocabulary, ids, options, prompt, n_dropped)\n"
        "module.generate = told\n"
        f"sys.argv = ['codegen', 'complete', '-q', '-n', '1', *{options!r}]\n"
        "from codegen_cli.__main__ import main\n"
        "main()\n"
    )
    prompt = b"<|endoftext|>x = 1  "
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, input=prompt, capture_output=True, check=False)
    assert result.stderr.decode() == f"{document!r}\n"


def test_a_prompt_that_ends_amid_a_line_is_completed(codegen):
    """Whatever the model writes, a comment after it is no line that starts with #."""
    options = ("-q", "-t", "0", "-n", "12")
    whole = text_of(codegen("complete", *options, "--until", "none", stdin=b"x = 1  "))
    completion = text_of(codegen("complete", *options, stdin=b"x = 1  "))
    assert completion
    assert whole.startswith(completion)


def test_a_bug_keeps_its_traceback():
    script = (
        "import sys, codegen_cli.session.completion_run\n"
        "codegen_cli.session.completion_run.choose_model = lambda *a, **k: 1 / 0\n"
        "sys.argv = ['codegen', 'complete', '-q', 'x']\n"
        "from codegen_cli.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert result.returncode == 1
    assert b"Traceback" in result.stderr
    assert b"ZeroDivisionError" in result.stderr
    assert result.stdout == b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_without_a_prompt_is_wrong_usage():
    import pty

    terminal, stdin = pty.openpty()
    try:
        command = [sys.executable, "-m", "codegen_cli", "complete"]
        result = subprocess.run(command, stdin=stdin, capture_output=True, timeout=60, check=False)
    finally:
        os.close(terminal)
        os.close(stdin)
    assert result.returncode == 2
    assert b"give a PROMPT, --file, or a pipe on stdin" in result.stderr


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("-n", "0"), "max_tokens is 0, need at least 1"),
        (("-t", "-1"), "temperature is -1.0"),
        (("-t", "nan"), "temperature is nan"),
        (("--top-p", "0"), "top_p is 0.0"),
        (("--top-k", "-3"), "top_k is -3"),
        (("--draft", "-1"), "draft is -1"),
        (("--seed", "-1"), "seed is -1"),
        (("--stop", ""), "'--stop': stop is"),
        (("--stop", "x", "--stop", os.fsdecode(b"a\xff")), "'--stop': stop is not UTF-8 text"),
        (("--max-time", "nan"), "max_time is nan"),
        (("--until", "class"), "class"),
        (("--threads", "0"), "Invalid value for '--threads'"),
        (("--max-time", "0"), "max_time is 0.0"),
        (("--bogus",), "--bogus"),
    ],
)
def test_an_option_out_of_range_is_wrong_usage(codegen, options, found):
    result = codegen("complete", *options, "x")
    assert result.returncode == 2
    assert found in result.stderr.decode()
    assert result.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "stdin", "message", "hint"),
    [
        (("-m", "350M-momo", "x"), b"", "unknown model '350M-momo'", "Did you mean 350M-mono"),
        (
            ("-m", "350M-mono", "x"),
            b"",
            "350M-mono is not on this machine",
            "codegen download 350M",
        ),
        (("-m", "./missing", "x"), b"", "no such file or directory: ./missing", "A model is"),
        (("-m", "/dev/null/x", "x"), b"", "/dev/null/x: Not a directory", "A model is"),
        ((), b"", "the prompt is empty", "Give the beginning"),
        ((), b"abc\xff\xfe", "stdin is not UTF-8 text: found byte 0xFF at offset 3", "UTF-8"),
        ((), b"\x7fELF\x00", "found byte 0x00 at offset 4", "binary"),
        (("--file", "missing.py"), b"", "cannot read missing.py: No such file", "--file"),
        (("--file", "/"), b"", "cannot read /: Is a directory", "--file"),
        (("--file", "-"), b"x", "cannot read -: No such file", "codegen complete -"),
    ],
)
def test_bad_input_gets_one_error_and_a_hint(codegen, arguments, stdin, message, hint):
    result = codegen("complete", "-q", *arguments, stdin=stdin)
    assert result.returncode == 1
    assert result.stdout == b""
    error, advice = result.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice
