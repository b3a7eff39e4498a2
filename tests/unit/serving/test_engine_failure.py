"""What a user reads when an engine does not serve any more."""

from types import SimpleNamespace

import pytest

from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.processes.exit_reason import Exit
from evalscope_evalflow.serving.engine_failure import engine_failure

NO_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB.\n"
BOB = "device 0 is held by PID 7 (bob, python train.py, 30.0 GiB)"


@pytest.mark.parametrize(
    ("line", "others", "hint"),
    [
        (NO_MEMORY, [BOB], f"Others use it as well: {BOB}. Lower max_num_seqs or max_model_len"),
        (NO_MEMORY, [], "Lower max_num_seqs or max_model_len"),
        ("RuntimeError: Engine core is tired\n", [BOB], ""),
    ],
)
def test_who_holds_a_device_is_named_where_it_has_no_memory_left(tmp_path, line, others, hint):
    log = tmp_path / "engine.log"
    log.write_text(line)
    process = SimpleNamespace(
        log=log, log_start=0, tree={8: 1}, exit_code=1, exit_reason=lambda less: Exit(1, less=less)
    )
    server = SimpleNamespace(
        engine=load_engine("vllm"),
        process=process,
        devices=SimpleNamespace(others=lambda tree: others if tree == {8: 1} else []),
        launch=SimpleNamespace(variables=[], argv=["vllm", "serve"]),
    )
    lines = str(engine_failure(server, "while it was starting", 3.0, log)).splitlines()
    assert lines[0].startswith("vllm stopped while it was starting (exit code 1, after 3 s): ")
    assert lines[1].strip().startswith(hint or "its last lines:")
