"""Ids that the released checkpoints were published with: runs of blanks, and whole completions.

test_tokenizer.py has the published ids of short texts.
"""

import pytest
from real_tokenizer import TOKENIZER

# Blanks become added tokens, leftmost and longest first.
RUNS = [
    *((" " * n, [50288 - n]) for n in range(2, 32)),
    (" " * 32, [50257, 220]),
    (" " * 33, [50257, 50286]),
    (" " * 62, [50257, 50257]),
    *(("\t" * n, [50296 - n]) for n in range(2, 10)),
    ("\t" * 10, [50287, 197]),
    ("\t" * 18, [50287, 50287]),
]

# Greedy completions of codegen-350M-mono as they were published: the prompt's ids, then the others.
COMPLETIONS = [
    (
        'def hello_world():\n    print("Hello World")\n\nhello_world()\n',
        [
            *(4299, 23748, 62, 6894, 33529),
            *(198, 50284, 4798, 7203, 15496, 2159, 4943, 198, 198, 31373, 62, 6894, 3419, 198),
        ],
    ),
    (
        'def hello_name(name):\n    print(f"Hello {name}")\n\nhello_name("John")',
        [
            *(4299, 23748, 62, 3672, 7, 3672, 2599),
            *(198, 50284, 4798, 7, 69, 1, 15496, 1391, 3672, 92, 4943, 198, 198),
            *(31373, 62, 3672, 7203, 7554, 4943),
        ],
    ),
]


def test_runs_of_blanks_become_the_longest_added_tokens():
    assert [TOKENIZER.encode(text) for text, _ in RUNS] == [ids for _, ids in RUNS]
    assert [TOKENIZER.decode(ids) for _, ids in RUNS] == [text for text, _ in RUNS]


@pytest.mark.parametrize(("text", "ids"), COMPLETIONS)
def test_published_completions_are_the_published_ids(text, ids):
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.encode(text) == ids
