"""Makes one call on one file fail, run after run, and tells what is wrong afterwards.

    python tests/injected/file_faults.py --kinds record,answers,judged --seconds 600 --seed 1 --out faults.jsonl

Each fault is a line of `--out`: what it was, whether it struck, and what was wrong. A second run with the same `--out`
leaves out what went well before. `--only TEXT` runs the faults whose words hold that text.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from failing_calls import faults_of
from fault_trials import WarmProcess
from question_server import QuestionServer
from trial_kinds import KINDS, make_trials


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="tasks, by comma")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial after that time")
    parser.add_argument("--seed", type=int, default=1, help="of the order, and of the choice in files with many calls")
    parser.add_argument("--only", default="", help="a text that a fault's words have to hold")
    parser.add_argument("--out", type=Path, default=Path("file-faults.jsonl"), help="file for the results")
    parser.add_argument("--verbose", action="store_true", help="show what was said in trials that went wrong")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    known = {}
    if args.out.exists():
        for line in args.out.read_text().splitlines():
            item = json.loads(line)
            if not item["wrong"]:
                known[item["kind"], item["fault"]] = item
    with tempfile.TemporaryDirectory(prefix="file-faults-") as scratch, QuestionServer() as server:
        warm = WarmProcess(Path(scratch))
        todo = []
        for kind in args.kinds.split(","):
            trials = make_trials(kind, Path(scratch, kind), server, warm)
            trials.undisturbed()
            todo += [(kind, trials, fault) for fault in faults_of(trials.calls, args.seed) if args.only in str(fault)]
        todo = [item for item in todo if (item[0], str(item[2])) not in known]
        random.Random(args.seed).shuffle(todo)
        print(f"{len(todo)} faults", flush=True)
        counts: Counter[str] = Counter()
        with args.out.open("a") as out:
            for kind, trials, fault in todo:
                if time.monotonic() > deadline:
                    break
                began = time.monotonic()
                struck, wrong = trials.trial(fault)
                seconds = round(time.monotonic() - began, 2)
                counts["struck" if struck else "not reached"] += 1
                counts["wrong"] += bool(wrong)
                out.write(json.dumps({"kind": kind, "fault": str(fault), "struck": struck, "seconds": seconds,
                                      "wrong": wrong}) + "\n")  # fmt: skip
                out.flush()
                if wrong:
                    print(f"{kind}, {fault}")
                    for line in wrong if args.verbose else wrong[:-2]:
                        print(f"    {line}", flush=True)
        warm.close()
    print(dict(counts))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
