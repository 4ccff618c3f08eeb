"""Tally: named whole-number parts and their exact total."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Tally(Mapping[str, int]):
    """Exact integers by dotted part name (`layers.attention.scores`), in the order they were given.

    Parts of equal name add up; `total` is always the sum of the parts, so no figure can drift from its rows.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[str, int] | None = None) -> None:
        self._parts: dict[str, int] = {}
        for name, amount in (parts or {}).items():
            if not isinstance(amount, int) or isinstance(amount, bool):
                raise TypeError(f"{name} is {amount!r}: a tally holds whole numbers only")
            self._parts[name] = amount

    def __getitem__(self, name: str) -> int:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Tally({self._parts!r})"

    def __add__(self, other: Mapping[str, int]) -> Tally:
        names = [*self, *(name for name in other if name not in self)]
        return Tally({name: self.get(name, 0) + other.get(name, 0) for name in names})

    def __mul__(self, factor: int) -> Tally:
        return Tally({name: amount * factor for name, amount in self.items()})

    __rmul__ = __mul__

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self._parts.values())

    def at_depth(self, depth: int) -> Tally:
        """The same total with part names cut to their first `depth` dotted pieces."""
        merged: dict[str, int] = {}
        for name, amount in self.items():
            key = ".".join(name.split(".")[:depth])
            merged[key] = merged.get(key, 0) + amount
        return Tally(merged)

    def without(self, *prefixes: str) -> Tally:
        """The parts that are neither one of `prefixes` nor below it."""
        kept = {n: a for n, a in self.items() if not any(n == p or n.startswith(p + ".") for p in prefixes)}
        return Tally(kept)

    def only(self, *prefixes: str) -> Tally:
        """The parts that are one of `prefixes` or below it."""
        kept = {n: a for n, a in self.items() if any(n == p or n.startswith(p + ".") for p in prefixes)}
        return Tally(kept)

    def to_dict(self) -> dict[str, int]:
        """A plain dictionary of the parts."""
        return dict(self._parts)
