"""Stock EvalScope with VLMEvalKit, as it is without us: tasks come as JSON lines, and what it returns goes back.

Run in an environment that has both. Nothing of it is changed but VLMEvalKit's list of MD5 sums, as the files are not
the published ones.
"""

import json
import os
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # it prints a lot
    from evalscope.run import run_task
    from vlmeval.dataset import DATASET_CLASSES

    for kind in DATASET_CLASSES:
        kind.DATASET_MD5 = {}
    for line in sys.stdin:
        task = json.loads(line)
        for name in ("OPENAI_API_BASE", "OPENAI_API_KEY", "LOCAL_LLM"):
            os.environ.pop(name, None)
        print(json.dumps(run_task(task)), file=answers)


main()
