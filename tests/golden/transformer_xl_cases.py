"""The models whose outputs are recorded beside this file, and the inputs they are given."""

import numpy as np

VOCABULARY, LANES, LENGTH, MEMORY, SEGMENTS = 30, 2, 5, 6, 3
CUTOFFS = [8, 16]

ORIGINAL = {
    "plain": {},
    "adaptive, div_val 1": {
        "cutoffs": CUTOFFS,
        "d_embed": 6,
        "tie_projs": [False, True, True],
    },
    "adaptive, div_val 4": {
        "cutoffs": CUTOFFS,
        "d_embed": 16,
        "div_val": 4,
        "tie_projs": [False, True, True],
    },
    "clamp_len, pre_lnorm": {"clamp_len": 4, "pre_lnorm": True},
    "same_length": {"same_length": True},
    "absolute": {"attn_type": 2, "mem_len": 0},
}
"""Options of the authors' MemTransformerLM, by the name of the record."""

TRANSFORMERS = {
    "untied": {"cutoffs": CUTOFFS, "div_val": 2},
    "narrow": {
        "cutoffs": CUTOFFS,
        "div_val": 1,
        "d_embed": 6,
        "clamp_len": 4,
        "same_length": True,
        "untie_r": False,
    },
}
"""Options of TransfoXLConfig of transformers 4.33, by the name of the folder."""


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Return ids and the labels after them: (segments, B, T) each."""
    rng = np.random.RandomState(1)
    ids = rng.randint(0, VOCABULARY, (LANES, SEGMENTS * LENGTH + 1))
    parts = [
        (ids[:, start : start + LENGTH], ids[:, start + 1 : start + LENGTH + 1])
        for start in range(0, SEGMENTS * LENGTH, LENGTH)
    ]
    return np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
