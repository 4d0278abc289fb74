"""A packed file and a number of texts -> on stdout the bytes that these should take; then they run.

    python memory_child.py MODEL THREADS N

Whoever starts this sees what it took.
"""

import sys
from pathlib import Path

from texts import Words, request

from codegen_cli.models.memory_need import needed
from codegen_cli.session.loading import load
from quantize.packed.packed_file import read_packed_file

N_PROMPT, N_NEW = 448, 64


def main() -> None:
    path, threads, n_texts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    packed = read_packed_file(path)
    need = needed(packed.config, packed.path.stat().st_size, n_texts, N_PROMPT + N_NEW)
    print(need.bytes, flush=True)
    with load(path, threads) as model:
        words = Words(model)
        requests = [request(words.text(N_PROMPT), N_NEW, n) for n in range(n_texts)]
        for _ in model.generate_many(requests):
            pass


if __name__ == "__main__":
    main()
