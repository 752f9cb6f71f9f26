from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from icgeo.seeds import seeded_generator


@given(st.lists(st.integers() | st.text() | st.binary(), min_size=1))
def test_the_seed_is_a_hash_of_the_key(key):
    """The values that published figures were drawn with: 63 bits of blake2b, parts joined by /."""
    text = b"/".join(part if isinstance(part, bytes) else str(part).encode() for part in key)
    seed = int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1
    assert seeded_generator(*key).initial_seed() == seed
    seed = int.from_bytes(blake2b(text, digest_size=7).digest(), "little")
    assert seeded_generator(*key, bits=56).initial_seed() == seed
