"""Whether bytes are the right ones."""

import hashlib

__all__ = ["verify"]


def verify(content, checksum: str, what) -> None:
    """Raise ValueError naming ``what`` unless ``content`` has ``checksum``: ``"md5:..."`` or ``"sha256:..."``."""
    algorithm, _, expected = checksum.partition(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"{what}: its {algorithm} is {found}, expected {expected}: not what it is named after")
