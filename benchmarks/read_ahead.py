"""Reading a checkpoint's files from a dropped page cache, and after they were read ahead.

    python benchmarks/read_ahead.py [--gigabytes 10] [--rounds 3] [--folder FOLDER] [--json FILE]

Files of random bytes are written to FOLDER, in parts of 2 GB, as the weights of a checkpoint. In each round they are
dropped from the page cache, and read from beginning to end as an engine that maps them into memory does; then they are
dropped again, read ahead as between two models of a sweep, and read. A ratio is cold / read ahead.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import tempfile
import time
from pathlib import Path

from evalscope_evalflow.sweep.prefetch import Prefetch

PART_BYTES, BLOCK_BYTES = 2 * 10**9, 2**24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = write(Path(folder), int(args.gigabytes * 10**9))
        rounds = [measure(files) for _ in range(args.rounds)]
    found = {
        "gigabytes": args.gigabytes,
        **{name: round(statistics.median(item[name] for item in rounds), 2) for name in rounds[0]},
        "ratio": round(statistics.median(item["cold_s"] / item["read_ahead_s"] for item in rounds), 1),
        "rounds": rounds,
    }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def write(folder: Path, size: int) -> list[Path]:
    """Files of random bytes, on the disk."""
    block, files = os.urandom(BLOCK_BYTES), []
    while size > 0:
        path = folder / f"model-{len(files)}.safetensors"
        with path.open("wb") as file:
            for _ in range(min(size, PART_BYTES) // BLOCK_BYTES):
                file.write(block)
            os.fsync(file.fileno())
        files.append(path)
        size -= PART_BYTES
    return files


def measure(files: list[Path]) -> dict[str, float]:
    """Seconds of one round."""
    drop(files)
    cold = read(files)
    drop(files)
    began = time.perf_counter()
    told = Prefetch(files).wait()
    ahead = time.perf_counter() - began
    assert told.bytes == sum(path.stat().st_size for path in files), told
    return {"cold_s": cold, "read_ahead_s": read(files), "reading_ahead_s": ahead}


def drop(files: list[Path]) -> None:
    """Have the kernel forget what it has read of them."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> float:
    """Seconds of touching every page of them, in order."""
    began = time.perf_counter()
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            for start in range(0, len(mapped), BLOCK_BYTES):
                mapped[start : start + BLOCK_BYTES]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
