"""Pages that are taken anew, against a mapping whose pages are touched one by one."""

import mmap
import sys

import pytest

from flopwatch.probe.fresh_memory import FreshMemory

N_PAGES = 5000


@pytest.mark.skipif(sys.platform != "linux", reason="the mapping is told to use small pages, as Linux can")
def test_each_page_that_is_touched_counts_once():
    """Two steps that map and touch 5,000 pages each; touching them again costs none."""
    fresh = FreshMemory()
    for _ in range(2):
        with mmap.mmap(-1, N_PAGES * mmap.PAGESIZE) as pages:
            pages.madvise(mmap.MADV_NOHUGEPAGE)
            for _again in range(2):
                for at in range(0, len(pages), mmap.PAGESIZE):
                    pages[at] = 1
    row = fresh.row(n_steps=2)
    assert row["pages"] == pytest.approx(N_PAGES, rel=0.05)
    assert 0 < row["kernel_share"] <= 1


def test_no_steps_have_no_pages():
    """Nothing is divided by nothing."""
    assert FreshMemory().row(n_steps=0) == {}
