"""The nearest vectors of a query: a look at whether features mean anything.

Legend: N = rows, D = width of a vector.
"""

from collections.abc import Iterable

import numpy as np


def nearest_rows(
    query: np.ndarray, blocks: Iterable[np.ndarray], count: int
) -> list[tuple[int, float]]:
    """Return the ``count`` rows of largest cosine with ``query``, the nearest first.

    Args:
        query: (D,).
        blocks: the N rows in order, as (rows, D) arrays; one block is in memory at a time.
        count: rows wanted; fewer come back where there are fewer.

    Returns:
        (row number, cosine) pairs; equal cosines in the order of the rows. A row of zeros has
        cosine 0.
    """
    rows: np.ndarray = np.empty(0, dtype=np.int64)
    cosines: np.ndarray = np.empty(0)
    direction = query.astype(np.float64) / max(float(np.linalg.norm(query)), 1e-12)
    start = 0
    for block in blocks:
        wide = block.astype(np.float64)
        norms = np.maximum(np.linalg.norm(wide, axis=1), 1e-12)
        rows = np.concatenate([rows, np.arange(start, start + len(block))])
        cosines = np.concatenate([cosines, wide @ direction / norms])
        best = np.argsort(-cosines, kind="stable")[:count]
        rows, cosines = rows[best], cosines[best]
        start += len(block)
    return [(int(row), float(cosine)) for row, cosine in zip(rows, cosines, strict=True)]
