"""A prompt read by a child process is what it is without one: ids, bytes and errors.

Each test is a process of its own, as in test_child_process.
"""

import os
import shutil
import subprocess
import sys

import pytest
from packed import write_packed

from codegen_cli.machine.places import bundled_model

needs_a_child = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="children are started on Linux only, and not on one core",
)
PREAMBLE = f"""
import os, signal, sys
from pathlib import Path
from codegen_cli.text.text_side import Prompt, TextSide
from quantize.files.errors import UserError
from quantize.packed.packed_header import packed_text, read_packed_header

header = read_packed_header(Path({str(bundled_model())!r}))
packed = packed_text(header)
n_positions = packed.config.n_positions

def asked(prompt, max_tokens=16, special_tokens=False):
    return Prompt(prompt, max_tokens, special_tokens)

def reading(prompt, **options):
    "A text side whose child reads the prompt."
    return TextSide(header, asked(prompt, **options))
"""


def run(script):
    command = [sys.executable, "-c", PREAMBLE + script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


@needs_a_child
def test_a_child_gives_what_this_process_would():
    run(
        "prompts = ['def fib(n):', '日本 \\r\\n\\t  é\\0', '    x = 1\\n' * 400, 'a' * 3000]\n"
        "prompts += ['x', '<|endoftext|>import os']\n"
        "options = [{}, {'special_tokens': True}, {'max_tokens': n_positions}]\n"
        "found = []\n"
        "for prompt in prompts:\n"
        "    for each in options:\n"
        "        side = reading(prompt, **each)\n"
        "        fitted, vocabulary = side.read(asked(prompt, **each))\n"
        "        found.append((fitted, vocabulary[1:]))\n"
        "        side.close()\n"
        "size = packed.config.vocab_size\n"
        "ids = [0, 1, 2, 197, 220, *range(size - 40, size + 2), 1 << 20, 0, 220]\n"
        "side = reading('x')\n"
        "_, vocabulary = side.read(asked('x'))\n"
        "bytes_found = [vocabulary.token_bytes(i) for i in ids]\n"
        "side.close()\n"
        "assert 'tokenizers' not in sys.modules\n"
        "side = TextSide(header)\n"
        "need = [side.read(asked(prompt, **each)) for prompt in prompts for each in options]\n"
        "assert found == [(fitted, vocabulary[1:]) for fitted, vocabulary in need]\n"
        "assert bytes_found == [need[0][1].token_bytes(i) for i in ids]\n"
        "assert len(set(bytes_found)) > 5\n"
    )


@needs_a_child
def test_samples_of_a_prompt_are_read_once_and_another_prompt_is_read_anew():
    run(
        "side = reading('def fib(n):')\n"
        "first = side.read(asked('def fib(n):'))\n"
        "assert side.read(asked('def fib(n):')) is first\n"
        "assert 'tokenizers' not in sys.modules\n"
        "assert side.read(asked('x')) == side.read(asked('x'))\n"
        "assert side.read(asked('x'))[0] != first[0]\n"
        "assert side.read(asked('def fib(n):'))[0] == first[0]\n"
        "side.close()\n"
    )


@needs_a_child
@pytest.mark.parametrize("moment", ["before", "after", "never"])
def test_a_child_that_is_killed_is_not_missed(moment):
    """As by a system that is out of memory."""
    kill = "os.kill(side._child._process, signal.SIGKILL)\n"
    run(
        "side = reading('def fib(n):')\n"
        + (kill if moment == "before" else "")
        + "fitted, vocabulary = side.read(asked('def fib(n):'))\n"
        + (kill if moment == "after" else "")
        + "text = b''.join(map(vocabulary.token_bytes, fitted.ids))\n"
        "side.close()\n"
        "side.close()\n"
        "assert len(fitted.ids) > 3 and text == b'def fib(n):'\n"
        f"assert ('tokenizers' in sys.modules) == {moment != 'never'}\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("prompt = ''", "the prompt is empty"),
        ("prompt = '\\ud800'", "the prompt is not Unicode text"),
        ("packed = replace(packed, tokenizer_json=b'{}')", "is not a tokenizer"),
        (
            "packed = replace(packed, config=replace(packed.config, vocab_size=300))",
            "does not belong to this model",
        ),
        ("packed = replace(packed, tokenizer_settings={'bos_token': 7})", "have bos_token 7"),
    ],
)
def test_errors_come_from_this_process(change, message):
    run(
        "from dataclasses import replace\n"
        "prompt = 'x'\n"
        f"{change}\n"
        "from codegen_cli.text import text_side\n"
        "text_side.packed_text = lambda header: packed\n"
        "side = reading(prompt)\n"
        "try:\n"
        "    side.read(asked(prompt))\n"
        "except UserError as error:\n"
        f"    assert {message!r} in f'{{error.message}} {{error.hint}}', error.message\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
        "side.close()\n"
    )


@pytest.mark.usefixtures("compiled_kernels")
@needs_a_child
def test_the_command_parses_no_tokenizer_itself():
    script = (
        "import sys\n"
        "from codegen_cli.commands.app import run\n"
        "sys.argv = ['codegen', 'complete', '-q', '-t', '0', '-n', '8', 'def fib(n):']\n"
        "try:\n"
        "    run()\n"
        "except SystemExit:\n"
        "    print('tokenizers' in sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script]
    two = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    core = f"import os\nos.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    command[-1] = core + script
    one = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert two.stdout
    assert two.stdout == one.stdout
    assert (two.stderr, one.stderr) == ("False\n", "True\n")


def test_what_comes_before_the_child_imports_neither_numpy_nor_the_tokenizers_library():
    script = (
        "import sys\n"
        "import codegen_cli.__main__, codegen_cli.commands.app, codegen_cli.commands.complete\n"
        "import codegen_cli.reports.completion, codegen_cli.session.completion_run\n"
        "print({'numpy', 'tokenizers', 'rich', 'llvmlite', 'numba'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "set()\n"


def test_a_model_that_is_packed_runs_by_its_name_without_the_hubs_client(tmp_path):
    write_packed(tmp_path / "models" / "350M-mono.int8.safetensors")
    script = (
        "import sys\n"
        "from codegen_cli.models.model_choice import choose_model\n"
        "print(choose_model('350M-mono').path.name, 'huggingface_hub' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    environment = os.environ | {"CODEGEN_HOME": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "350M-mono.int8.safetensors False\n"


@pytest.mark.usefixtures("compiled_kernels")
def test_a_file_that_is_replaced_meanwhile_is_no_mixture(tmp_path, codegen):
    model, other = tmp_path / "model.safetensors", write_packed(tmp_path / "other")
    shutil.copy(bundled_model(), model)
    arguments = ["complete", "-q", "-t", "0", "-n", "8", "-m", str(model), "x"]
    whole = codegen(*arguments)
    script = (
        "import os, sys\n"
        "from codegen_cli.session import loading\n"
        "load = loading.load_engine\n"
        "def replace_and_load(*arguments, **options):\n"
        f"    os.replace({str(other)!r}, {str(model)!r})\n"
        "    return load(*arguments, **options)\n"
        "loading.load_engine = replace_and_load\n"
        f"sys.argv = ['codegen', *{arguments!r}]\n"
        "from codegen_cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (result.stdout, result.stderr, result.returncode) == (whole.stdout, b"", 0)
    assert codegen(*arguments).stdout != whole.stdout  # it was replaced
