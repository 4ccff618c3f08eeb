"""A model of torch's caching allocator on a CUDA device: what a program's tensors make it reserve, and where it fails.

Rules and figures are those of c10/cuda/CUDACachingAllocator.cpp with default settings (torch 2.6 to 2.13): no
expandable segments, no splitting limit, no garbage collection threshold. One stream.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

MIB: Final = 1 << 20
_ROUND_BYTES: Final = 512  # kMinBlockSize
_SMALL_BYTES: Final = MIB  # kSmallSize: up to here a request comes from the small pool
_SMALL_SEGMENT_BYTES: Final = 2 * MIB  # kSmallBuffer
_MIDDLE_BYTES: Final = 10 * MIB  # kMinLargeAlloc: below, a large request shares a segment
_MIDDLE_SEGMENT_BYTES: Final = 20 * MIB  # kLargeBuffer
_SEGMENT_ROUND_BYTES: Final = 2 * MIB  # kRoundLarge


class OutOfDeviceMemoryError(Exception):
    """The allocator found no free block and may not reserve more: what torch raises as OutOfMemoryError."""

    def __init__(self, n_bytes: int, reserved_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"no room for {n_bytes} bytes: {reserved_bytes} of {limit_bytes} are reserved")
        self.n_bytes = n_bytes


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Peaks of a replay: bytes in tensors (each rounded), and bytes that the allocator reserved from the device."""

    allocated_bytes: int
    reserved_bytes: int
    fits: bool
    failed_event: int | None = None


class _Block:
    """A piece of a segment: free or in use, with its neighbours in the segment."""

    __slots__ = ("address", "is_free", "n_bytes", "next", "pool", "previous")

    def __init__(self, address: int, n_bytes: int, pool: _Pool) -> None:
        self.address = address
        self.n_bytes = n_bytes
        self.pool = pool
        self.is_free = False
        self.previous: _Block | None = None
        self.next: _Block | None = None

    @property
    def is_whole(self) -> bool:
        """Whether this block is its whole segment."""
        return self.previous is None and self.next is None


class _Pool:
    """Free blocks in the order of size, then address: the allocator takes the first that is large enough."""

    def __init__(self, least_rest_bytes: int) -> None:
        self.least_rest_bytes = least_rest_bytes
        self._keys: list[tuple[int, int]] = []
        self._blocks: dict[int, _Block] = {}

    def put(self, block: _Block) -> None:
        """Add a free block."""
        block.is_free = True
        bisect.insort(self._keys, (block.n_bytes, block.address))
        self._blocks[block.address] = block

    def remove(self, block: _Block) -> None:
        """Take a known free block out."""
        block.is_free = False
        del self._keys[bisect.bisect_left(self._keys, (block.n_bytes, block.address))]
        del self._blocks[block.address]

    def find(self, n_bytes: int) -> _Block | None:
        """The smallest free block of at least `n_bytes`; None when there is none."""
        at = bisect.bisect_left(self._keys, (n_bytes, 0))
        return self._blocks[self._keys[at][1]] if at < len(self._keys) else None

    def whole_segments(self) -> list[_Block]:
        """Free blocks that are whole segments."""
        return [block for block in self._blocks.values() if block.is_whole]


class CachingAllocator:
    """Allocates, splits, merges and caches as torch does on CUDA, within `limit_bytes` (None: without a limit)."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self.n_retries = 0
        self._small = _Pool(_ROUND_BYTES)
        self._large = _Pool(_SMALL_BYTES + 1)
        self._next_address = 0

    def allocate(self, n_bytes: int) -> _Block | None:
        """A block for `n_bytes` (None for none at all); raises OutOfDeviceMemoryError when it cannot be had."""
        if n_bytes <= 0:
            return None
        size = -(-n_bytes // _ROUND_BYTES) * _ROUND_BYTES
        pool = self._small if size <= _SMALL_BYTES else self._large
        block = pool.find(size)
        if block is not None:
            pool.remove(block)
        else:
            block = self._reserve(size, pool)
        self._split(block, size)
        self.allocated_bytes += block.n_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def free(self, block: _Block | None) -> None:
        """Give a block back to its pool, merged with free neighbours."""
        if block is None:
            return
        self.allocated_bytes -= block.n_bytes
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.is_free:
                block.pool.remove(neighbour)
                block = _merged(block, neighbour)
        block.pool.put(block)

    def empty_cache(self) -> None:
        """Give every free whole segment back to the device."""
        for pool in (self._small, self._large):
            for block in pool.whole_segments():
                pool.remove(block)
                self.reserved_bytes -= block.n_bytes

    def _reserve(self, size: int, pool: _Pool) -> _Block:
        segment_bytes = segment_size(size)
        if not self._has_room(segment_bytes):
            self.n_retries += 1
            self.empty_cache()
            if not self._has_room(segment_bytes):
                raise OutOfDeviceMemoryError(size, self.reserved_bytes, self.limit_bytes or 0)
        block = _Block(self._next_address, segment_bytes, pool)
        self._next_address += segment_bytes
        self.reserved_bytes += segment_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return block

    def _has_room(self, n_bytes: int) -> bool:
        return self.limit_bytes is None or self.reserved_bytes + n_bytes <= self.limit_bytes

    def _split(self, block: _Block, size: int) -> None:
        """Cut what is not needed off the end, where the rest is large enough to be of use."""
        rest_bytes = block.n_bytes - size
        if rest_bytes < block.pool.least_rest_bytes:
            return
        rest = _Block(block.address + size, rest_bytes, block.pool)
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next = rest
        block.n_bytes = size
        block.pool.put(rest)


def segment_size(size: int) -> int:
    """Bytes that are reserved from the device for a request of `size` bytes (rounded) that no cached block can hold."""
    if size <= _SMALL_BYTES:
        return _SMALL_SEGMENT_BYTES
    if size < _MIDDLE_BYTES:
        return _MIDDLE_SEGMENT_BYTES
    return -(-size // _SEGMENT_ROUND_BYTES) * _SEGMENT_ROUND_BYTES


def replay(events: Iterable[int], sizes: Sequence[int], *, limit_bytes: int | None = None) -> Usage:
    """What a program reserves that allocates block n at event n and frees it at event ~n, `sizes[n]` bytes each.

    With a limit the replay ends where the allocator would fail.
    """
    allocator = CachingAllocator(limit_bytes)
    blocks: dict[int, _Block | None] = {}
    failed: int | None = None
    for index, event in enumerate(events):
        if event < 0:
            allocator.free(blocks.pop(~event))
            continue
        try:
            blocks[event] = allocator.allocate(sizes[event])
        except OutOfDeviceMemoryError:
            failed = index
            break
    return Usage(
        allocated_bytes=allocator.peak_allocated_bytes,
        reserved_bytes=allocator.peak_reserved_bytes,
        fits=failed is None,
        failed_event=failed,
    )


def _merged(block: _Block, neighbour: _Block) -> _Block:
    """One block of two that lie side by side in a segment."""
    first, second = (neighbour, block) if neighbour.address < block.address else (block, neighbour)
    first.n_bytes += second.n_bytes
    first.next = second.next
    if second.next is not None:
        second.next.previous = first
    return first
