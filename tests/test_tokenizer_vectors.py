"""The published CodeGen tokenizer gives the published ids, and its ids give the text back."""

from pathlib import Path

import pytest

from codegen_cli.tokenizer import Tokenizer

TOKENIZER_JSON = Path(__file__).parent / "data" / "tokenizer.json"

# Ids as transformers' CodeGenTokenizer gives them for the published vocabulary.
VECTORS = [
    ("", []),
    ("Hello world", [15496, 995]),
    (" Hello world", [18435, 995]),
    ("The dog", [464, 3290]),
    ("def fib(n):", [4299, 12900, 7, 77, 2599]),
    ("def hello_world():", [4299, 23748, 62, 6894, 33529]),
    ("def hello_name(name):", [4299, 23748, 62, 3672, 7, 3672, 2599]),
    ("# this function prints hello world", [2, 428, 2163, 20842, 23748, 995]),
    (
        "def fib(n):\n    if n < 2:\n        return n\n",
        [4299, 12900, 7, 77, 2599, 198, 50284, 361, 299, 1279, 362, 25, 198, 50280, 7783, 299, 198],
    ),
    ("\n  ", [198, 50286]),
    ("\n   \n", [198, 50285, 198]),
    ("  \t  x", [50286, 197, 50286, 87]),
    ("\r\n  a", [201, 198, 50286, 64]),
    ("héllo ✓ 日本語", [71, 2634, 18798, 24762, 10545, 245, 98, 17312, 105, 45739, 252]),
    ("日本", [33768, 98, 17312, 105]),
    ("<|endoftext|>def f", [50256, 4299, 277]),
]

# Runs that the added tokens stand for, leftmost and longest first.
RUNS = [
    *((" " * n, [50288 - n]) for n in range(2, 32)),
    (" " * 32, [50257, 220]),
    (" " * 33, [50257, 50286]),
    *(("\t" * n, [50296 - n]) for n in range(2, 10)),
    ("\t" * 10, [50287, 197]),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_json(TOKENIZER_JSON.read_bytes())


@pytest.mark.parametrize(("text", "ids"), VECTORS)
def test_text_becomes_the_published_ids(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode(text) == ids


@pytest.mark.parametrize(("text", "ids"), VECTORS)
def test_ids_become_the_text_again(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.decode(ids) == text


def test_runs_of_blanks_become_the_longest_added_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.encode(text) for text, _ in RUNS] == [ids for _, ids in RUNS]
    assert [tokenizer.decode(ids) for _, ids in RUNS] == [text for text, _ in RUNS]


def test_published_completion_decodes_to_its_text(tokenizer: Tokenizer) -> None:
    """The greedy completion of 350M-mono for `def hello_world():`."""
    completion = [198, 50284, 4798, 7203, 15496, 2159, 4943, 198, 198]
    completion += [31373, 62, 6894, 3419, 198]
    text = '\n    print("Hello World")\n\nhello_world()\n'
    assert tokenizer.decode(completion) == text
    assert tokenizer.encode(text) == completion


@pytest.mark.parametrize("text", ["a , b . c", "I 'm don 't", " ( x ) ", "a  ,  b\t.\r\n\n"])
def test_no_space_is_cleaned_up(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_without_a_token_are_those_from_50295(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 50295
    assert tokenizer.missing_ids(51200).tolist() == list(range(50295, 51200))


def test_end_of_text_is_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_of_text == 50256
