"""A start of vLLM takes most of a minute: the whole test run has ten of them, and who adds one has to say so here."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
MOST = 10
# Starts of `vllm serve`, by file.
STARTS = {
    "conftest.py": 2,  # the server that tests share, in each of the two processes that CI runs them in
    "real/engines/test_conformance.py": 1,  # one that fails
    "real/run/test_faults.py": 5,  # two that are killed; one whose processes are killed twice, and so two restarts
    "real/engines/test_swapped_weights.py": 1,  # with other weights after another
    "real/engines/test_vllm_leak.py": 1,  # without us
}
# These have to do with vLLM's environment, and start no server of it.
NONE = {
    "environments.py",  # builds it
    "real/engines/test_swap_proof.py",  # its PyTorch
    "real/engines/test_engine_options.py",  # its parser, in forks of one process
    "real/engines/test_start_failures.py",  # starts that fail, in forks of one process that has imported it once
}


def test_vllm_is_started_ten_times_at_most():
    words = re.compile(r"\bvllm_deploy\b|\bvllm_env\b|\bVLLM_DEPLOY\b")
    files = {str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py") if words.search(path.read_text())}
    assert files - {"unit/engines/test_vllm_starts.py"} == STARTS.keys() | NONE
    assert sum(STARTS.values()) <= MOST
