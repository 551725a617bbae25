"""Seeds: one for each purpose, derived from the run's."""

import hashlib
import json
import random
import sys


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed for one purpose, the same in every process: ``derive_seed(42, "validation", 3)``."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def seed_everything(seed: int) -> None:
    """Seed random, numpy's legacy generator and, where it is already imported, torch."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
