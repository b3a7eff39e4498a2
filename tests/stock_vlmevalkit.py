"""Stock EvalScope with VLMEvalKit, as it is without us: tasks come as JSON lines, and what it returns goes back.

Run in an environment that has both. Nothing of it is changed but VLMEvalKit's list of MD5 sums, as the files are not
the published ones, and its waits between attempts. With what `run_task` returns goes what it leaves behind: the judge's
variables, and whether this process still looks at certificates.
"""

import json
import os
import ssl
import sys
import types

JUDGE_VARIABLES = ("OPENAI_API_BASE", "OPENAI_API_KEY", "LOCAL_LLM")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # it prints a lot
    verified = ssl._create_default_https_context
    import vlmeval.api.base
    from evalscope.run import run_task
    from vlmeval.dataset import DATASET_CLASSES

    vlmeval.api.base.time = types.SimpleNamespace(sleep=lambda _: None)
    for kind in DATASET_CLASSES:
        kind.DATASET_MD5 = {}
    for line in sys.stdin:
        task = json.loads(line)
        for name in JUDGE_VARIABLES:
            os.environ.pop(name, None)
        found = {
            "returned": run_task(task),
            "variables": {name: os.environ[name] for name in JUDGE_VARIABLES if name in os.environ},
            "verifies": ssl._create_default_https_context is verified,
        }
        print(json.dumps(found), file=answers)


main()
