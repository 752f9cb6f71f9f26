"""Inputs spoiled at random, and what a door does with them."""

import copy
import json
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import icgeo

REFUSED = object()
"""What is returned by what refuses an input without raising."""
OURS = Path(icgeo.__file__).parent
VALUES = (None, True, -1, 0, 2.5, "", "x", "9" * 400, [], {}, [1, "x"], {"x": 1}, float("nan"))
"""What takes the place of a value of another type."""


@st.composite
def spoiled(draw: Any, data: bytes, alike: tuple[bytes, ...] = ()) -> bytes:
    """Draw bytes of which some are flipped, cut, doubled, or exchanged for what programs mind."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        # most faults in the head, where formats are told
        most = draw(st.sampled_from([64, 512, len(result)]))
        at = draw(st.integers(0, max(0, min(most, len(result)) - 1)))
        match draw(st.integers(0, 5)):
            case 0 if result:
                result[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                result[at : at + 1] = draw(st.binary(max_size=4))
            case 2:
                del result[at:]
            case 3:
                del result[at : at + draw(st.integers(1, 64))]
            case 4:
                result[at:at] = result[at : at + draw(st.integers(1, 64))]
            case _:
                result[at : at + 4] = draw(st.sampled_from((b"\0\0\0\0", b"\xff" * 4, *alike)))
    return bytes(result)


@st.composite
def spoiled_json(draw: Any, told: Any) -> bytes:
    """Draw JSON with keys dropped, renamed, or with values of other types; sometimes no JSON."""
    told = json.loads(json.dumps(told))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = told, None
        while isinstance(holder, dict | list) and len(holder):
            keys = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
            key = draw(st.sampled_from(keys))
            if not isinstance(holder[key], dict | list) or draw(st.booleans()):
                break
            holder = holder[key]
        if key is None or not len(holder):
            continue
        value = holder.pop(key)
        if draw(st.booleans()) and isinstance(holder, dict):
            holder[draw(st.sampled_from((key, f"{key}s")))] = copy.deepcopy(
                draw(st.sampled_from(VALUES))
            )
        elif isinstance(holder, list):
            holder.insert(0, copy.deepcopy(draw(st.sampled_from((value, *VALUES)))))
    text = json.dumps(told).encode()
    return draw(st.one_of(st.just(text), st.just(text), spoiled(text)))


class Door:
    """Counts what comes of inputs: read, refused in one line of ours, or escaped."""

    def __init__(self, *errors: type[Exception]) -> None:
        self.errors, self.count = errors, Counter[str]()

    def take(self, read: Any) -> None:
        """Read one input; fail for an error that is not ours, or whose message is long."""
        self.count["inputs"] += 1
        try:
            is_refused = read() is REFUSED
        except self.errors as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            is_ours = Path(last.filename).is_relative_to(OURS)
            if not is_ours or not str(error) or len(str(error)) > 1500:
                self.count["escaped"] += 1
                raise
            self.count["refused"] += 1
        except Exception:
            self.count["escaped"] += 1
            raise
        else:
            self.count["refused" if is_refused else "read"] += 1
