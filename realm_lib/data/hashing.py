"""What is decided by a hash of texts: the same in every process, whatever the order of rows."""

import hashlib
import json


def unit_hash(*parts: str) -> float:
    """A number in [0, 1) fixed by ``parts``."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") / 2**64
