"""Logs of engines that served well, and of one that died: no pattern finds a cause in the former.

The logs in `engine_logs` are trimmed: lines that differ in numbers alone are left out, and paths are replaced.
"""

from pathlib import Path

import pytest

from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.processes.exit_reason import Exit
from evalscope_evalflow.serving.diagnosis import TAIL_LINES, diagnose

LOGS = Path(__file__).with_name("engine_logs")
GOOD = sorted(LOGS.glob("*-ok.log"))
KILLED = LOGS / "vllm-0.26-h100-engine-core-killed.log"
# Lines of good starts that are in no log here, by vLLM's source.
WARNINGS = [
    "(EngineCore pid=7) WARNING 11-26 17:21:22 [utils.py:319] NewForCausalLM has no vLLM implementation, falling back "
    "to Transformers implementation. Some features may not be supported and performance may not be optimal.\n",
    "(APIServer pid=7) WARNING 11-26 17:21:22 [parallel.py:750] Address already in use. Retrying with a new port.\n",
    "(APIServer pid=7) INFO 11-26 17:21:22 [env.py:1] ImportError: no flash_attn: its kernels are not used\n",
    "INFO 11-26 17:21:22 [env.py:1] ModuleNotFoundError: No module named 'helion'\n",
]


def of_engine(log):
    engine = load_engine(log.name.partition("-")[0])
    return engine, (engine.log_prefix, engine.log_routine)


def explained(log, **ending):
    engine, about = of_engine(log)
    return diagnose(log, engine.log_patterns, 0, Exit(**ending) if ending else None, *about)


@pytest.mark.parametrize("log", GOOD, ids=lambda log: log.stem)
def test_no_pattern_finds_a_cause_in_the_log_of_a_good_run(log):
    engine, _ = of_engine(log)
    text = log.read_text()
    assert [pattern.pattern for pattern in engine.log_patterns if pattern.explain(text)] == []
    found = explained(log)
    assert found.hint == ""
    assert not found.again
    assert "Error" not in found.cause


def test_every_engine_of_ours_has_such_a_log():
    assert {log.name.partition("-")[0] for log in GOOD} == {"vllm", "lmdeploy", "sglang", "llamacpp"}


@pytest.mark.parametrize("line", WARNINGS)
def test_no_pattern_finds_a_cause_in_a_warning(tmp_path, line):
    log = tmp_path / "vllm.log"
    log.write_text(line + "the last line\n")
    engine = load_engine("vllm")
    found = diagnose(log, engine.log_patterns, 0, None, engine.log_prefix, engine.log_routine)
    assert found.cause == "the last line"


def test_the_death_of_vllms_engine_core_has_its_own_words():
    found = explained(KILLED, code=0)  # the API server ends with 0 after it
    assert found.cause.startswith("vLLM's EngineCore, the process that computes, died without a word")
    assert "engine core exited unexpectedly" in found.cause
    assert "`dmesg`" in found.hint
    assert "EngineDeadError" not in found.cause


def test_the_kernels_word_goes_before_it():
    found = explained(KILLED, code=0, oom_kills=1)
    assert found.cause == "the kernel has killed a process of this machine for lack of memory meanwhile"


def test_what_engine_core_says_itself_goes_before_it(tmp_path):
    log = tmp_path / "vllm.log"
    error = (
        "(EngineCore pid=7) ERROR 11-26 17:25:08 [core.py:9] RuntimeError: CUDA error: device-side assert triggered\n"
    )
    log.write_text(KILLED.read_text().replace("(APIServer pid=4210) WARNING", error + "(APIServer pid=4210) WARNING"))
    engine = load_engine("vllm")
    found = diagnose(log, engine.log_patterns, 0, Exit(0), engine.log_prefix, engine.log_routine)
    assert found.cause == "RuntimeError: CUDA error: device-side assert triggered"


def test_a_device_without_memory_in_mid_run_is_told_from_one_that_was_measured(tmp_path):
    log = tmp_path / "vllm.log"
    error = "(EngineCore pid=7) ERROR 11-26 17:25:08 [core.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried\n"
    log.write_text(KILLED.read_text() + error)
    engine = load_engine("vllm")
    found = diagnose(log, engine.log_patterns, 0, Exit(0), engine.log_prefix, engine.log_routine)
    assert found.cause == "the device ran out of memory: CUDA out of memory. Tried"
    assert found.device_memory


def test_the_last_lines_leave_out_requests_that_went_well(tmp_path):
    log = tmp_path / "engine.log"
    bad = 'INFO:     127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error'
    good = [
        'INFO:     127.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
        '17:25:08 - httpx - INFO: HTTP Request: POST http://127.0.0.1:1/v1/chat/completions "HTTP/1.1 200 OK"',
    ]
    log.write_text("\n".join(["a word", bad, *good * TAIL_LINES]) + "\n")
    assert diagnose(log, ()).tail == ["a word", bad]
    log.write_text("\n".join(good) + "\n")
    assert diagnose(log, ()).tail == good, "there is nothing else to show"
