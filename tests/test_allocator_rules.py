"""The model of torch's caching allocator against its rules, worked out by hand."""

import pytest

from flopwatch.device.allocator import CachingAllocator, OutOfDeviceMemoryError, replay

MIB = 1 << 20


@pytest.mark.parametrize(
    ("asked_bytes", "reserved_bytes"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (37 * MIB + 5, 38 * MIB),
    ],
)
def test_what_a_first_request_reserves(asked_bytes, reserved_bytes):
    """Small ones from 2 MiB, those below 10 MiB from 20 MiB, larger ones rounded up to 2 MiB."""
    allocator = CachingAllocator()
    allocator.allocate(asked_bytes)
    assert allocator.reserved_bytes == reserved_bytes


def test_requests_are_rounded_to_512_bytes():
    """Three bytes take 512, 513 take 1024."""
    allocator = CachingAllocator()
    allocator.allocate(3)
    allocator.allocate(513)
    assert allocator.allocated_bytes == 512 + 1024


def test_small_requests_share_a_segment():
    """Four of half a MiB fill 2 MiB; a fifth opens another."""
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.allocate(MIB // 2)
    assert allocator.reserved_bytes == 2 * MIB
    allocator.allocate(MIB // 2)
    assert allocator.reserved_bytes == 4 * MIB


def test_a_large_block_is_split_only_when_more_than_a_mib_is_left():
    """A freed 12 MiB block serves 11 MiB whole (1 MiB over), and 10 MiB with 2 MiB for others."""
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(12 * MIB))
    block = allocator.allocate(11 * MIB)
    assert block.n_bytes == 12 * MIB
    allocator.free(block)
    assert allocator.allocate(10 * MIB).n_bytes == 10 * MIB
    allocator.allocate(2 * MIB)
    assert allocator.reserved_bytes == 12 * MIB


def test_the_smallest_block_that_is_large_enough_is_taken():
    """Best fit: 16 MiB goes into the free 18, not the free 40."""
    allocator = CachingAllocator()
    kept = [allocator.allocate(size * MIB) for size in (40, 18)]
    for block in kept:
        allocator.free(block)
    assert allocator.allocate(16 * MIB).address == kept[1].address


def test_free_neighbours_become_one_block_again():
    """Three parts of a 30 MiB segment, freed out of order, serve 30 MiB."""
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(30 * MIB))
    parts = [allocator.allocate(10 * MIB) for _ in range(3)]
    for number in (1, 0, 2):
        allocator.free(parts[number])
    allocator.allocate(30 * MIB)
    assert allocator.reserved_bytes == 30 * MIB


def test_at_the_limit_whole_free_segments_are_given_back_first():
    """40 MiB cached and free make room for 60 MiB in 64."""
    allocator = CachingAllocator(64 * MIB)
    allocator.free(allocator.allocate(40 * MIB))
    allocator.allocate(60 * MIB)
    assert (allocator.n_retries, allocator.reserved_bytes) == (1, 60 * MIB)


def test_a_segment_that_is_in_use_in_part_is_not_given_back():
    """Fragmentation: 2 MiB of a 40 MiB segment keep all of it, and 60 MiB no longer fit in 64."""
    allocator = CachingAllocator(64 * MIB)
    allocator.free(allocator.allocate(40 * MIB))
    allocator.allocate(2 * MIB)
    with pytest.raises(OutOfDeviceMemoryError, match=f"no room for {60 * MIB} bytes: {40 * MIB} of {64 * MIB}"):
        allocator.allocate(60 * MIB)


def test_nothing_takes_nothing():
    """An empty tensor has no block."""
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(0))
    assert allocator.reserved_bytes == 0


def test_a_replay_says_at_which_event_it_fails():
    """12 MiB, then 20 MiB in 30: the second event fails; in 32 both fit."""
    events, sizes = [0, 1, ~0, ~1], [12 * MIB, 20 * MIB]
    assert replay(events, sizes, limit_bytes=30 * MIB).failed_event == 1
    usage = replay(events, sizes, limit_bytes=32 * MIB)
    assert (usage.fits, usage.allocated_bytes, usage.reserved_bytes) == (True, 32 * MIB, 32 * MIB)
