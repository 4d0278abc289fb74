"""A job's seed and its lines -> a key for each, from which its draws and its answer's id follow.

    SHA-256 of  "SEED id ID"              ID as JSON in ASCII: a line with an id
                "SEED line OCCURRENCE "   and the bytes of a line without one, OCCURRENCE from 0

The key is the first 32 of the hash's hexadecimal digits, and the line's seed its first 53 bits,
which every reader of JSON keeps: `printf '7 id "a"' | sha256sum` tells them of line "a", seed 7.
"""

import hashlib
import json
from collections import Counter

LineId = str | int
_KEY_DIGITS = 32
_SEED_DIGITS, _SURPLUS_BITS = 14, 3


class LineKeys:
    """Gives each line its key; the lines are told in their order, each once."""

    def __init__(self, job_seed: int) -> None:
        self._job_seed = job_seed
        self._n_seen: Counter[bytes] = Counter()

    def key(self, line_id: LineId | None, content: bytes) -> tuple[str, bool]:
        """Return a line's key, and whether a line before it has the same id.

        A line that repeats an id has the key of one without.
        """
        if line_id is not None:
            named = json.dumps(line_id).encode("ascii")
            if self._count(b"id ", named) == 0:
                return self._digits(b"id ", named), False
        occurrence = self._count(b"line ", content)
        return self._digits(b"line %d " % occurrence, content), line_id is not None

    def _count(self, kind: bytes, content: bytes) -> int:
        """Return how often this was seen before."""
        digest = hashlib.sha256(kind + content).digest()[:16]
        self._n_seen[digest] += 1
        return self._n_seen[digest] - 1

    def _digits(self, kind: bytes, content: bytes) -> str:
        hashed = hashlib.sha256(b"%d %b%b" % (self._job_seed, kind, content))
        return hashed.hexdigest()[:_KEY_DIGITS]


def seed_of(key: str) -> int:
    """Return the seed of a line's draws, below 2**53."""
    return int(key[:_SEED_DIGITS], 16) >> _SURPLUS_BITS
