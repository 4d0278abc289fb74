"""What an option of a completion is when nobody gives it: to the API, the command or $CODEGEN_*.

The values are those of CodeGen's authors, where theirs is such an option. Beside
decoding.options, which says what the options mean, as that takes too long to import for a `--help`.
What commands and batches allow alike is here, too.
"""

from typing import Literal

Until = Literal["function", "none"]

MAX_TOKENS = 128
TEMPERATURE = 0.2
TOP_P = 0.95
TOP_K = 0
UNTIL: Until = "function"
DRAFT = 8

MOST_SAMPLES = 128
"""Of one prompt, as OpenAI has it."""
