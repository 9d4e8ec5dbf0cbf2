"""Every random stream of nlpapp is derived from (seed, names), never from global state.

A stream named by what it is for ("epoch order", 3) gives the same numbers whatever ran before it,
in which process, and with how many workers.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 64-bit seed for the stream called ``names`` under the run's ``seed``."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a fresh numpy generator for the stream called ``names`` under the run's ``seed``."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
