"""The README shows exactly what the bundled model writes for its example, and that is right.

What a model writes is untrusted: its syntax tree is checked before it runs, in a limited process.
"""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PROMPT = "def fib(n):"
COMMAND = f'codegen complete "{PROMPT}" -t 0'

# Beside operators, of which ** and << could fill the memory: arithmetic, comparisons, assignments,
# loops and returns.
ALLOWED = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Pass),
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.If, ast.IfExp, ast.For, ast.While),
    *(ast.Break, ast.Continue, ast.Name, ast.Constant, ast.Tuple, ast.Call, ast.Compare),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.expr_context, ast.cmpop, ast.boolop, ast.unaryop),
    *(ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod),
)

LIMITED = """
import resource, sys
source = sys.stdin.read()
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
names = {"__builtins__": {"range": range}}
exec(source, names)
print(*(names["fib"](n) for n in range(21)))
"""


def judge(source):
    """Raise ValueError unless a source is one function, fib, that computes and calls itself."""
    tree = ast.parse(source)
    if [type(each) for each in tree.body] != [ast.FunctionDef] or tree.body[0].name != "fib":
        raise ValueError("need one function, fib")
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            raise ValueError(f"{type(node).__name__} is not allowed")
        if isinstance(node, ast.Call) and not is_call_of_fib(node) and not is_range(node):
            raise ValueError("a call of something else than fib")
        if isinstance(node, ast.Name) and node.id.startswith("_") and node.id.strip("_"):
            raise ValueError(f"the name {node.id}")
        if isinstance(node, ast.FunctionDef) and (node is not tree.body[0] or node.decorator_list):
            raise ValueError("a function within, or a decorator")


def is_call_of_fib(call):
    return isinstance(call.func, ast.Name) and call.func.id == "fib"


def is_range(call):
    return isinstance(call.func, ast.Name) and call.func.id == "range"


def first_values(source):
    """fib(0) to fib(20), computed in a process with nothing but a processor for 20 seconds."""
    command = [sys.executable, "-I", "-S", "-c", LIMITED]
    result = subprocess.run(
        command, input=source, capture_output=True, text=True, timeout=120, check=False
    )
    if result.returncode:
        raise ValueError(result.stderr)
    return [int(word) for word in result.stdout.split()]


def is_fibonacci(values):
    """Whether they are 0, 1, 1, 2, ... or, in the other convention, 1, 1, 2, 3, ..."""
    sums = [a + b for a, b in itertools.pairwise(values)]
    return values[:2] in ([0, 1], [1, 1]) and values[2:] == sums[:-1]


@pytest.fixture(scope="module")
def printed(codegen, compiled_kernels):
    result = codegen("complete", PROMPT, "-t", "0")
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def test_the_readme_shows_what_is_printed(printed):
    [shown] = re.findall(
        rf"^\$ {re.escape(COMMAND)}\n(.*?)^```$", README.read_text("utf-8"), re.S | re.M
    )
    assert shown.removesuffix("\n") == printed.removesuffix("\n")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_what_is_printed_is_a_fibonacci_function(printed):
    source = PROMPT + printed
    judge(source)
    values = first_values(source)
    assert len(values) == 21
    assert is_fibonacci(values), values


@pytest.mark.parametrize(
    "body",
    [
        "return open('x')",
        "return n.__class__",
        "import os",
        "return [fib(n)]",
        "return (lambda: n)()",
        "return 9 ** n",
        "return 1 << n",
        "return f'{n}'",
        "return __import__",
        "def g(): return n",
        "return fib(fib)(n)",
        "global n",
        "return exec(n)",
        "yield n",
        "raise n",
        "with n: pass",
        "try:\n        return n\n    finally: pass",
    ],
)
def test_a_function_that_does_more_is_not_run(body):
    with pytest.raises((ValueError, SyntaxError)):
        judge(f"def fib(n):\n    {body}\n")


@pytest.mark.parametrize("source", ["fib = 1\n", "def fib(n): pass\nfib(1)\n", "def g(n): pass\n"])
def test_anything_but_one_function_is_not_run(source):
    with pytest.raises(ValueError, match="need one function"):
        judge(source)


LOOP = (
    "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_loop_is_as_good_as_a_recursion():
    judge(LOOP)
    assert is_fibonacci(first_values(LOOP))
    assert is_fibonacci(first_values(LOOP.replace("return a", "return b")))  # fib(0) = 1
    assert not is_fibonacci(first_values(LOOP.replace("a + b", "a * b")))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def fib(n):\n    while n < 99: pass\n    return n\n", ""),  # the processor's time is up
        ("def fib(n):\n    return open('x')\n", "NameError"),
        ("def fib(n):\n    return 'x' * 1000000000\n", "MemoryError"),
    ],
)
def test_the_process_that_runs_it_is_limited(source, found):
    limited = LIMITED.replace("(20, 20)", "(1, 1)")
    command = [sys.executable, "-I", "-S", "-c", limited]
    result = subprocess.run(
        command, input=source, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode != 0
    assert found in result.stderr
