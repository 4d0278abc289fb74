"""What an engine is asked of caches -> the same, once it is known to fit the model."""

from codegen_cli.contract.engine import Cache


def checked_positions(n_positions: int | None, most: int) -> int:
    """Return the ids that a new cache is for (None: most); raises ValueError for more than most."""
    n = most if n_positions is None else n_positions
    if not 0 < n <= most:
        raise ValueError(f"a cache for {n} positions, need 1 to {most}")
    return n


def check_beginning(n_past: int, source: Cache, copy: Cache) -> None:
    """Raise ValueError unless a cache has so many ids, and a copy room for them."""
    if not 0 <= n_past <= min(source.n_past, copy.n_positions):
        raise ValueError(
            f"{n_past} ids of a cache of {source.n_past}, for one of {copy.n_positions}"
        )
