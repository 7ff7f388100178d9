"""The state of an update rule as plain data, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torchopt
from torch import Tensor

from ._plain import plain
from .optim._base import State


def pack(state: State) -> dict[str, Any]:
    """The leaves of a state, and how many each of its entries has."""
    entries = [torchopt.pytree.tree_leaves(entry) for entry in _entries(state)]
    numbered = dict(enumerate(leaf for entry in entries for leaf in entry))
    return {"leaves": plain(numbered), "sizes": [len(entry) for entry in entries]}


def unpack(saved: Mapping[str, Any], likes: Sequence[Callable[[], State]]) -> State:
    """The state that `pack` made plain, each entry like that of the first of the given states that it fits.

    Raises:
        LookupError: an entry fits none of them.
    """
    sizes = saved["sizes"]
    leaves = iter([saved["leaves"][str(index)] for index in range(sum(sizes))])
    known: list[State] = []
    waiting = iter(likes)

    def fitting(index: int) -> tuple[list[Any], Any]:
        """Leaves and structure of a known entry of the right size; a state is made when none before fits."""
        for state in known:
            found: tuple[list[Any], Any] = torchopt.pytree.tree_flatten(_entries(state)[index])
            if len(found[0]) == sizes[index]:
                return found
        for make in waiting:
            state = make()
            if len(_entries(state)) == len(sizes):
                known.append(state)
                return fitting(index)
        raise LookupError(index)

    entries = []
    for index in range(len(sizes)):
        found, structure = fitting(index)
        values = [_like(next(leaves), leaf) for leaf in found]
        entries.append(torchopt.pytree.tree_unflatten(structure, values))
    return entries[0] if known and type(known[0]) is not tuple else tuple(entries)


def _entries(state: State) -> Sequence[State]:
    """What a rule keeps for each parameter, nothing for one never updated; or all that it keeps, as one."""
    return state if type(state) is tuple else (state,)


def _like(value: Any, leaf: Any) -> Any:
    return value.detach().clone().to(leaf.device) if isinstance(value, Tensor) else value
