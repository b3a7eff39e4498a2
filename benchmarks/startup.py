"""What the start-up shim costs: every interpreter start, and `import evalscope`.

    python benchmarks/startup.py [--pairs 40] [--json FILE]

Pairs of processes, with the shim and without (its `.pth` file is moved away meanwhile), in turn, so that the
machine's noise meets both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PTH = Path(sysconfig.get_path("purelib")) / "evalscope_evalflow_startup.pth"


@contextmanager
def without_shim() -> Iterator[None]:
    """The environment as it is without EvalFlow's start-up file."""
    aside = PTH.with_suffix(".aside")
    PTH.rename(aside)
    try:
        yield
    finally:
        aside.rename(PTH)


def seconds(code: str) -> float:
    """Wall time of an interpreter that runs some code."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def compare(code: str, pairs: int) -> dict[str, float]:
    """Medians, in ms, with and without; and the median of the differences."""
    seconds(code)
    with_shim, without = [], []
    for number in range(pairs):
        for shim in (True, False) if number % 2 else (False, True):
            if shim:
                with_shim.append(seconds(code))
            else:
                with without_shim():
                    without.append(seconds(code))
    return {
        "with_ms": statistics.median(with_shim) * 1e3,
        "without_ms": statistics.median(without) * 1e3,
        "added_ms": statistics.median(a - b for a, b in zip(with_shim, without, strict=True)) * 1e3,
        "ratio": statistics.median(a / b for a, b in zip(with_shim, without, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, default=40, help="pairs for `pass`; a fifth of that for `import evalscope`"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    result = {
        "pass": compare("pass", args.pairs),
        "import evalscope": compare("import evalscope", max(5, args.pairs // 5)),
    }
    for code, figures in result.items():
        print(f"{code:18}", *(f"{name} {value:9.3f}" for name, value in figures.items()))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
