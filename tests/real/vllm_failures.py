"""Provokes start failures of vLLM, one after the other, in processes forked from one that has imported it once.

Run by its path, in vLLM's environment: `python vllm_failures.py < cases.json`. A case is {"argv", "env", "log"}; its
process runs vLLM's own command, and its output goes to `log`. The exit codes are printed as a JSON list. Each of
these would cost 20 to 60 s of imports on its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback

SECONDS_EACH = 90


def run(argv: list[str], env: dict[str, str | None], log: str) -> int:
    """vLLM's command in a process of its own. Returns its exit code, negative for a signal. None in `env`: not set."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            for name, value in env.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            sys.argv = ["vllm", *argv]
            signal.alarm(SECONDS_EACH)
            from vllm.entrypoints.cli.main import main

            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001  nothing of it may get back to the loop
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it may have left: nothing else is in its group
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    cases = json.load(sys.stdin)
    import vllm.entrypoints.cli.main
    import vllm.entrypoints.cli.serve
    import vllm.v1.engine.core  # noqa: F401

    print(json.dumps([run(case["argv"], case["env"], case["log"]) for case in cases]))


if __name__ == "__main__":
    main()
