"""Generators of random numbers that are seeded by what they are for."""

from hashlib import blake2b

from torch import Generator


def seeded_generator(*key: object, bits: int = 63) -> Generator:
    """Make a generator whose seed, of some bits, is a hash of the key: parts as text, or bytes."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in key]
    digest = blake2b(b"/".join(parts), digest_size=-(-bits // 8)).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> (-bits % 8))
