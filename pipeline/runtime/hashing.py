"""What makes a model's file another one, for all that is kept by it: profiles, copies, engines, results."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.runtime.card import sha256_of
from pipeline.runtime.demands import weights_beside


def model_sha256(path: Path, own: str | None = None) -> str:
    """SHA-256 of a model: that of its file; with weights in files beside it, of the hashes of all of them.

    An export after more training may change those files alone. ``own`` is that of the file, where it is known
    already. Raises OSError, and ModelError for weights that are missing, or outside the model's folder.
    """
    own = own or sha256_of(path)
    beside = weights_beside(path)
    if not beside:
        return own
    return hashlib.sha256(" ".join([own, *map(sha256_of, beside)]).encode()).hexdigest()
