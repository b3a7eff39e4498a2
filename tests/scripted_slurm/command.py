"""A scripted Slurm of 64 nodes with one GPU each: it is `sbatch`, `squeue`, `scontrol`, `scancel`, `sinfo` and `srun`.

Started by one of those names in a `PATH`. What it knows is in the folder SCRIPTED_SLURM: `calls`, one line for each
request, and `jobs`, the jobs that were submitted, a line `ID ELEMENTS` for each. With every request to squeue, what
runs ends, and as many begin as there are nodes. `refuse-after` holds how many submissions are taken; `silent`, if it
is there, makes every command fail as it does while the controller is away.
"""

import os
import re
import sys
from pathlib import Path

NODES = 64
HOME = Path(os.environ["SCRIPTED_SLURM"])


def main(name, arguments):
    with (HOME / "calls").open("a") as calls:
        calls.write(" ".join([name, *arguments]) + "\n")
    if (HOME / "silent").exists():
        print(f"{name}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    return {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol, "sinfo": sinfo}.get(name, nothing)(arguments)


def nothing(arguments):
    return 0


def sinfo(arguments):
    for number in range(NODES):
        print(f"gpu{number:02}|batch*|gpu:h100:1(S:0)|h100,ib|8:00:00|2-00:00:00")
    return 0


def scontrol(arguments):
    if arguments[:2] == ["show", "config"]:
        print("MaxArraySize            = 501")
    return 0


def sbatch(arguments):
    if "--test-only" in arguments:
        return 0
    jobs = listed()
    allowed = HOME / "refuse-after"
    if allowed.exists() and len(jobs) >= int(allowed.read_text()):
        words = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
        print(f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {words}", file=sys.stderr)
        return 1
    found = re.search(r"--array='?0-(\d+)", Path(arguments[-1]).read_text())
    number = 100 + len(jobs)
    with (HOME / "jobs").open("a") as file:
        file.write(f"{number} {int(found[1]) + 1 if found else 0}\n")
    print(f"Submitted batch job {number}")
    return 0


def squeue(arguments):
    begun = HOME / "begun"
    before = int(begun.read_text()) if begun.exists() else 0
    now = before + NODES
    begun.write_text(str(now))
    ids = [f"{job}_{element}" if count else job for job, count in listed() for element in range(max(1, count))]
    for place, job in enumerate(ids):
        if place < before:
            print(f"{job}|COMPLETED|gpu{place % NODES:02}|2026-01-01T00:00:00|2026-01-01T00:00:00|None")
        elif place < now:
            print(f"{job}|RUNNING|gpu{place % NODES:02}|2026-01-01T00:00:00|2026-01-01T00:00:00|None")
        else:
            print(f"{job}|PENDING||2026-01-01T00:00:00|N/A|Resources")
    return 0


def listed():
    file = HOME / "jobs"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(job, int(count)) for job, count in (line.split() for line in lines)]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
