"""Files larger than memory: what memory there is, and that the data points are those of the file however it is read."""

import mmap
import os
from itertools import pairwise

import numpy as np
import pytest
import torch

from aevb_ext._memory import memory_limit
from aevb_ext.data import arrays, load
from aevb_ext.data.archive import read_arrays

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def written(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        # Version 2: the least of the group's own and those above it; "max" is none.
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/memory.max": "1048576\n",
            },
            1 << 20,
        ),
        # A container sees its own group as the root.
        ({"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        # Version 1, where no limit is a very large one.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "8192\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8192,
        ),
    ],
    ids=["none", "version 2", "container", "version 1"],
)
def test_the_limit_is_that_of_the_machine_or_of_the_group(tmp_path, files, expected):
    assert memory_limit(written(tmp_path, files)) == expected


def test_there_is_memory_here():
    assert 1 << 20 < memory_limit() <= MACHINE


@pytest.mark.parametrize("width", [3, 4096, 5000], ids=["many on a page", "a page", "more than one"])
@pytest.mark.parametrize("archive", [False, True], ids=["npy", "npz"])
def test_a_file_larger_than_memory_gives_what_is_in_it(tmp_path, monkeypatch, width, archive):
    x = np.random.RandomState(0).randint(256, size=(300, width)).astype(np.uint8)
    path = tmp_path / ("x.npz" if archive else "x.npy")
    (np.savez(path, train=x, test=x) if archive else np.save(path, x))
    asked = []

    class Map(mmap.mmap):
        def madvise(self, option, start=0, length=None):
            if option == mmap.MADV_WILLNEED:
                asked.append((start, length))
            return super().madvise(option, start) if length is None else super().madvise(option, start, length)

    monkeypatch.setattr(mmap, "mmap", Map)
    monkeypatch.setattr(arrays, "memory_limit", lambda: 0)
    rows = read_arrays(path, 0).splits["train"]
    for index in ([299], [0], [5, 4, 4, 200, 6], list(range(300)), np.random.RandomState(1).permutation(300).tolist()):
        asked.clear()
        assert torch.equal(rows.gather(torch.tensor(index)), torch.from_numpy(x[index]))
        # Whole pages, each once, and all that was wanted; neighbours are one request.
        assert all(start % mmap.PAGESIZE == 0 for start, _ in asked)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(asked))
        wanted = {rows._skipped + i * width + byte for i in index for byte in (0, width - 1)}
        assert all(any(start <= byte < start + length for start, length in asked) for byte in wanted)
        assert len(asked) == 1 or len(index) < 300
    assert load(path, resident_bytes=0).train.resident is False
