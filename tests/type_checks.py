"""Beartype for jaxtyping's hook, cheaper: built on the first call, and each value checked once.

The hook checks a call twice, the arguments before it, and arguments and result after it; shapes
stay known between the two. And it builds both for each function, of which a process calls a part.
What is called in loops is checked often, then now and then.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int is a float to Python's type system, to beartype only if told."""
EACH, EVERY = 500, 10
"""So many calls of a function in a process are checked each, of those after them every tenth."""


def check_calls(stub: Callable[..., Any]) -> Callable[..., Any]:
    """Return `stub` of the hook, which does nothing, with checks of its arguments or its result."""
    returned = stub.__annotations__.get("return", Any)
    if returned is not Any:
        stub.__annotations__ = {"return": returned}
    built: list[Callable[..., Any]] = []
    calls = count()

    def checked(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if call >= EACH and call % EVERY:
            return None
        if not built:  # two threads may both build it
            built.append(check_types(stub))
        return built[0](*args, **kwargs)

    return checked
