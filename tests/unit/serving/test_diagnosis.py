import pytest

from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.engines.vllm import VLLM as Engine
from evalscope_evalflow.processes.exit_reason import Exit, ExitReason
from evalscope_evalflow.serving.diagnosis import READ_BYTES, TAIL_LINES, diagnose

CORE = "(EngineCore_DP0 pid=4242) ERROR 03-14 09:26:53 [core.py:845] "
SERVER = "(APIServer pid=4200) "
TRACE = f"""\
{SERVER}INFO 03-14 09:26:40 [api_server.py:1346] vLLM API server version 0.32.0
{CORE}EngineCore failed to start.
{CORE}Traceback (most recent call last):
{CORE}  File "/opt/vllm/v1/engine/core.py", line 836, in run_engine_core
{CORE}    engine_core = EngineCoreProc(*args, **kwargs)
{{line}}
{SERVER}Traceback (most recent call last):
{SERVER}  File "/opt/vllm/entrypoints/cli/main.py", line 73, in main
{SERVER}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{{{}}}}
"""

VLLM = [
    (
        "usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --max-modle-len 4096\n",
        "vLLM rejects an argument: unrecognized arguments: --max-modle-len 4096",
        "vllm serve --help",
    ),
    (
        "vllm serve: error: argument --max-model-len: invalid human_readable_int value: 'long'\n",
        "vLLM rejects an argument: argument --max-model-len: invalid human_readable_int value: 'long'",
        "vllm serve --help",
    ),
    (
        SERVER + "ValueError: The supplied chat template string (chat.jinja) appears path-like, but doesn't exist! "
        "Tried: chat.jinja",
        "the chat template chat.jinja does not exist",
        "Jinja",
    ),
    (
        SERVER + "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len "
        "(max_position_embeddings=2048 or model_max_length=None in model's config.json).",
        "the context is too long for this model: User-specified max_model_len (99999) is greater than",
        "Lower max_model_len",
    ),
    (
        CORE + "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (7.2 GiB). The estimated maximum model length is "
        "58976.",
        "58976",
        "Lower max_model_len or max_num_seqs",
    ),
    (
        CORE + "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
        "there is not enough memory for the KV cache",
        "more devices",
    ),
    (
        CORE + "ValueError: Free memory on device cuda:0 (11.02/79.1 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 71.19 GiB).",
        "the device is in use by another process: Free memory on device cuda:0 (11.02/79.1 GiB)",
        "--gpu-memory-utilization",
    ),
    (
        CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 0 has a total capacity.",
        "the device ran out of memory: CUDA out of memory. Tried to allocate 448.00 MiB.",
        "Lower max_num_seqs",
    ),
    (SERVER + "OSError: [Errno 98] Address already in use\n", "the port is taken", "Choose another port."),
    (
        CORE + "ValueError: Total number of attention heads (9) must be divisible by tensor parallel size (2).",
        "tensor_parallel does not fit: Total number of attention heads (9) must be divisible by tensor parallel size "
        "(2)",
        "divides the attention heads",
    ),
    (
        SERVER + "ValueError: World size (8) is larger than the number of available GPUs (1) in this node.",
        "tensor_parallel does not fit: World size (8) is larger than",
        "devices that exist",
    ),
    (
        SERVER + "  Value error, The checkpoint you are trying to load has model type `newmodel` but Transformers does "
        "not recognize this architecture.",
        "this engine cannot run the model: model type `newmodel`",
        "Upgrade the engine",
    ),
    (
        SERVER + "ValueError: Model architectures ['NewForCausalLM'] are not supported for now.",
        "this engine cannot run the model: Model architectures ['NewForCausalLM'] are not supported",
        "Upgrade the engine",
    ),
    (CORE + "RuntimeError: No CUDA GPUs are available", "the engine finds no device that it can use", "driver"),
    (SERVER + "RuntimeError: Failed to infer device type", "the engine finds no device that it can use", "CPU build"),
    (
        CORE + "huggingface_hub.errors.LocalEntryNotFoundError: cannot find the files",
        "the model is not on this machine, and the hub cannot be asked: cannot find the files",
        "Download it first",
    ),
    (
        SERVER + "OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/models/none'. Use it.",
        "the path '/models/none' does not exist",
        "checkpoint's folder",
    ),
    (
        SERVER + "  Value error, Invalid repository ID or local directory specified: '/models/empty'.",
        "'/models/empty' is not a checkpoint",
        "config.json",
    ),
    (
        CORE + "ValueError: To serve at least one request with the model's max seq len (300000), 6.44 GiB is needed.",
        "there is not enough memory for the KV cache: To serve at least one request",
        "Lower max_model_len",
    ),
    (
        "ModuleNotFoundError: No module named 'torch'\n",
        "the engine's environment is broken: ModuleNotFoundError: No module named 'torch'",
        "Repair",
    ),
    (
        SERVER + "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "  Value error, Expecting ',' delimiter: line 1 column 993 (char 992) [type=value_error, input_value=Args]",
        "a file of the checkpoint is not whole: Expecting ',' delimiter: line 1 column 993 (char 992)",
        "Download the checkpoint again",
    ),
    (
        CORE + "ValueError: Available memory on node 0 (2.1/23.4 GiB) on startup is less than desired CPU memory "
        "utilization (0.92, 21.5 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction.",
        "the machine's memory is in use by other processes: Available memory on node 0 (2.1/23.4 GiB) on startup is "
        "less than desired CPU memory utilization (0.92, 21.5 GiB)",
        "lower --gpu-memory-utilization",
    ),
    (
        CORE + "ValueError: Available memory on node 0 (20.0/23.4) GiB) on kv cache allocation is less than requested "
        "memory for kv (931322.57 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE.",
        "there is not enough memory for the KV cache: Available memory on node 0",
        "lower VLLM_CPU_KVCACHE_SPACE",
    ),
    (  # as of 0.33
        CORE + "ValueError: The worker already uses 3.2 GiB (model weights and runtime), more than the 2.0 GiB of CPU "
        "memory reserved for it on node 0, leaving none for the KV cache. On the CPU backend, the flag controls it.",
        "there is not enough memory for the KV cache: The worker already uses 3.2 GiB (model weights and runtime), "
        "more than the 2.0 GiB of CPU memory reserved",
        "Raise --gpu-memory-utilization",
    ),
    (
        CORE + "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.",
        "one of vLLM's processes was killed: Worker proc VllmWorker-0 died unexpectedly (exit code: -9)",
        "`dmesg` names what the kernel killed",
    ),
    (
        SERVER + "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): "
        "{'EngineCore_DP0': -9}",
        "one of vLLM's processes was killed: Failed core proc(s): {'EngineCore_DP0': -9}",
        "`dmesg`",
    ),
]
LLAMACPP = [
    (
        "llamacpp_launcher.py: error: unrecognized arguments: --thread 3\n",
        "an argument is not understood: unrecognized arguments: --thread 3",
        "--help",
    ),
    (
        "srv  start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8000\n",
        "the port is taken",
        "another port",
    ),
    (
        "llama_model_load: error loading model: error loading model architecture: "
        "unknown model architecture: 'newone'\n"
        "srv    load_model: failed to load model, '/m.gguf'\n",
        "this llama.cpp does not know the architecture 'newone'",
        "Upgrade xllamacpp",
    ),
    (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 51539607552\n"
        "llama_init_from_model: failed to initialize the context\n",
        "there is not enough memory: failed to allocate buffer of size 51539607552",
        "Lower max_model_len or max_num_seqs",
    ),
    (
        "llama_model_load: error loading model: tensor 'blk.3.ffn_up.weight' data is not within the file bounds\n"
        "llama_model_load_from_file_impl: failed to load model\n",
        "tensor 'blk.3.ffn_up.weight' data is not within the file bounds",
        "file is complete",
    ),
    (
        "0.00.836.298 E common_chat_templates_init: error: parser: Parser Error: Expected }} (Got )\n"
        "0.00.836.333 E common_chat_templates_init: failed to initialize chat template\n"
        "0.00.836.412 E srv          init: init: chat template parsing error: std::exception\n"
        "RuntimeError: Failed to init server, please check the input params.\n",
        "the chat template cannot be used: parser: Parser Error: Expected }} (Got )",
        "Mend the Jinja file of deploy.chat_template",
    ),
]


LMDEPLOY = [
    (
        "INFO: Started\nERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): "
        "address already in use\n",
        "the port is taken",
        "another port",
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
        "the device ran out of memory: CUDA out of memory.",
        "--cache-max-entry-count",
    ),
    (
        "RuntimeError: [TM][ERROR] CUDA runtime error: out of memory\n",
        "the device ran out of memory: [TM][ERROR] CUDA runtime error: out of memory",
        "--cache-max-entry-count",
    ),
    ("RuntimeError: No CUDA GPUs are available\n", "the engine finds no device that it can use", "driver"),
    ("ValueError: Port 23333 is not available\n", "the port is taken", "another port"),
    # Of the rest, LMDeploy's own words (0.18), as it looks at the model only after it has found a GPU.
    (
        '  File "lmdeploy/pytorch/config.py", line 606, in _update_torch_dtype\n'
        "    assert model_config.num_attention_heads % tp == 0\n"
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\nAssertionError\n",
        "tensor_parallel does not fit: assert model_config.num_attention_heads % tp == 0",
        "divides the attention heads",
    ),
    (
        "AssertionError: TP split: attention.w_qkv dim 1 has size 960, not divisible by tp=7.\n",
        "tensor_parallel does not fit: TP split: attention.w_qkv dim 1 has size 960, not divisible by tp=7",
        "divides the attention heads",
    ),
    (
        "RuntimeError: No enough gpu memory for kv cache.\n",
        "there is not enough memory for the KV cache: No enough gpu memory for kv cache",
        "lower max_model_len",
    ),
    (
        "ValueError: The checkpoint you are trying to load has model type `newmodel` but Transformers does not "
        "recognize this architecture. This could be because of an issue with the checkpoint.\n",
        "this engine cannot run the model: model type `newmodel`",
        "Upgrade",
    ),
    (
        "RuntimeError: Can not found rewrite for architectures: ['NewForCausalLM']\n",
        "this LMDeploy cannot run the model: Can not found rewrite for architectures: ['NewForCausalLM']",
        "Upgrade LMDeploy",
    ),
    (  # recorded: the parent ends its manager while the child still hands back the lock
        "Process mp_engine_proc:\nTraceback (most recent call last):\n"
        '  File "lmdeploy/pytorch/engine/mp_engine/zmq_engine.py", line 132, in _mp_proc\n    with condition:\n'
        "  File \"multiprocessing/managers.py\", line 1058, in __exit__\n    return self._callmethod('release')\n"
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        '  File "multiprocessing/connection.py", line 399, in _recv\n    raise EOFError\nEOFError\n'
        "2026-11-25 01:39:14,091 - lmdeploy - ERROR - zmq_rpc.py:62 - PyTorch ZMQ engine process is not alive.\n"
        "lmdeploy.zmq_rpc.RPCServerDeadError: PyTorch ZMQ engine process is not alive.\n",
        "two of LMDeploy's processes missed each other at its start",
        "Run the same command again.",
    ),
    (
        "  File server.py\nValueError: weights are missing\n"
        "lmdeploy.zmq_rpc.RPCServerDeadError: PyTorch ZMQ engine process is not alive.\n",
        "ValueError: weights are missing",
        "",
    ),
]


@pytest.fixture
def log(tmp_path):
    def write(text):
        path = tmp_path / "engine.log"
        path.write_text(text)
        return path

    return write


# By its source, 0.5.23.
SGLANG = [
    (
        "sglang serve: error: argument --tp-size/--tensor-parallel-size: invalid int value: 'two'\n",
        "SGLang rejects an argument: argument --tp-size/--tensor-parallel-size: invalid int value: 'two'",
        "launch_server --help",
    ),
    (
        "RuntimeError: Chat template chatnl is not a built-in template name or a valid chat template file path.\n",
        "SGLang cannot read the chat template: Chat template chatnl is not a built-in template name",
        "JSON file",
    ),
    (
        "ValueError: Warning: User-specified context_length (99999) is greater than the derived context_length (2048). "
        "This may lead to incorrect model outputs or CUDA errors.\n",
        "the context is too long for this model: User-specified context_length (99999) is greater than the derived "
        "context_length (2048)",
        "Lower max_model_len",
    ),
    (
        "[2026-11-24 01:00:00 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n\n"
        "[2026-11-24 01:00:01] Received sigquit from a child process. It usually means the child failed.\n",
        "there is not enough memory for the KV cache",
        "Raise tensor_parallel",
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB.\n",
        "the device ran out of memory: CUDA out of memory",
        "Lower --mem-fraction-static",
    ),
    (
        "ERROR:    [Errno 98] error while attempting to bind on address: address already in use\n",
        "the port is taken",
        "",
    ),
    (
        "    assert self.total_num_heads % tp_size == 0\nAssertionError\n",
        "tensor_parallel does not fit: assert self.total_num_heads % tp_size == 0",
        "divides the attention heads",
    ),
    (
        "AssertionError: 9 is not divisible by 2\n",
        "tensor_parallel does not fit: AssertionError: 9 is not divisible by 2",
        "divides",
    ),
    (
        "RuntimeError: No accelerator (CUDA, XPU, HPU, NPU, MUSA, MPS) or platform plugin is available.\n",
        "SGLang finds no device that it can use: No accelerator",
        "without a GPU",
    ),
    (
        "ModuleNotFoundError: No module named 'torchvision'\n",
        "the engine's environment is broken: ModuleNotFoundError: No module named 'torchvision'",
        "Repair",
    ),
]


@pytest.mark.parametrize(("line", "cause", "hint"), VLLM)
@pytest.mark.parametrize("form", ["{line}\n", TRACE])
def test_vllms_failures_are_put_in_words(log, form, line, cause, hint):
    found = diagnose(log(form.format(line=line)), Engine.log_patterns, prefix=Engine.log_prefix)
    assert cause in found.cause
    assert "\n" not in found.cause
    assert hint in found.hint


@pytest.mark.parametrize(("text", "cause", "hint"), LLAMACPP)
def test_llama_cpps_failures_are_put_in_words(log, text, cause, hint):
    found = diagnose(log(text), load_engine("llamacpp").log_patterns)
    assert cause in found.cause
    assert hint in found.hint


@pytest.mark.parametrize(("text", "cause", "hint"), SGLANG)
def test_what_sglang_says(log, text, cause, hint):
    found = diagnose(log(text), load_engine("sglang").log_patterns)
    assert found.cause.startswith(cause)
    assert hint in found.hint


@pytest.mark.parametrize(("text", "cause", "hint"), LMDEPLOY)
def test_lmdeploys_failures_are_put_in_words(log, text, cause, hint):
    found = diagnose(log(text), load_engine("lmdeploy").log_patterns)
    assert cause in found.cause
    assert hint in found.hint


def test_the_wrapper_is_not_taken_for_the_cause(log):
    text = TRACE.format(line=f"{CORE}safetensors.SafetensorError: the file is cut short")
    found = diagnose(log(text), Engine.log_patterns, prefix=Engine.log_prefix)
    assert found.cause == "SafetensorError: the file is cut short"


def test_of_pydantics_errors_the_line_that_says_something_is_shown(log):
    text = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "  Value error, this cannot be [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error\n"
    )
    assert diagnose(log(text), Engine.log_patterns, prefix=Engine.log_prefix).cause == "VllmConfig: this cannot be"


def test_of_errors_that_wrap_each_other_the_first_is_the_cause(log):
    text = (
        "OSError: the disk is gone\n\nThe above exception was the direct cause of the following exception:\n\n"
        "RuntimeError: weights cannot be read\n"
    )
    assert diagnose(log(text), ()).cause == "OSError: the disk is gone"


def test_an_error_without_words_is_shown_with_its_line_of_code(log):
    text = (
        'Traceback (most recent call last):\n  File "shape.py", line 3, in split\n    assert heads % ranks == 0\n'
        "           ^^^^^^^^^^^^^^^^^^\nAssertionError\nRuntimeError: initialization failed\n"
    )
    assert diagnose(log(text), ()).cause == "AssertionError at `assert heads % ranks == 0`"


KILLED = "it was killed by somebody, or by a limit that is not ours (SIGKILL)"
NO_MEMORY = "the kernel killed it for lack of memory (SIGKILL)"


@pytest.mark.parametrize(
    ("ending", "cause", "hint"),
    [
        # It had no time to say why: whatever stands in its log is something else.
        (Exit(137), KILLED, "`dmesg` names what the kernel killed"),
        (Exit(137, oom_kills=1), NO_MEMORY, "lower max_num_seqs"),
        (Exit(137, ExitReason.GUARD_KILLED), "its guard process was killed by somebody, and it with that", "again"),
        # It may have had.
        (Exit(139), "KeyError: 'no such layer'", ""),
        (Exit(1), "KeyError: 'no such layer'", ""),
        (Exit(None), "KeyError: 'no such layer'", ""),
        (
            Exit(1, oom_kills=2),
            "the kernel has killed a process of this machine for lack of memory meanwhile; its own words: KeyError: "
            "'no such layer'",
            "lower max_num_seqs",
        ),
    ],
)
def test_how_a_process_ended_tells_what_its_log_cannot(log, ending, cause, hint):
    path = log("loading\nKeyError: 'no such layer'\nread 3 of 4 files\n")
    found = diagnose(path, (), ending=ending)
    assert found.cause == cause
    assert hint in found.hint
    assert found.tail[-1] == "read 3 of 4 files"


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (139, "it crashed, or was ended from outside (SIGSEGV)"),
        (134, "it crashed, or was ended from outside (SIGABRT)"),
        (255, "read 3 of 4 files"),  # a code of its own, and no signal
        (1, "read 3 of 4 files"),
    ],
)
def test_a_crash_without_a_word_is_named(log, code, cause):
    assert diagnose(log("loading\nread 3 of 4 files\n"), (), ending=Exit(code)).cause == cause


def test_what_a_log_explains_is_not_put_down_to_a_signal(log):
    path = log("OSError: [Errno 98] Address already in use\n")
    assert diagnose(path, Engine.log_patterns, prefix=Engine.log_prefix, ending=Exit(134)).cause == "the port is taken"


def test_a_start_that_may_go_well_a_moment_later_is_told_apart(log):
    patterns = Engine.log_patterns
    assert diagnose(log("OSError: [Errno 98] Address already in use\n"), patterns).again
    assert not diagnose(log("KeyError: 'x'\n"), patterns).again


def test_an_engine_that_ends_with_no_known_error_shows_its_last_line(log):
    found = diagnose(
        log("loading\n\nSegmentation fault (core dumped)\n\n"), Engine.log_patterns, prefix=Engine.log_prefix
    )
    assert (found.cause, found.hint) == ("Segmentation fault (core dumped)", "")


@pytest.mark.parametrize("text", ["", "\n \n", None])
def test_an_engine_that_said_nothing_is_told_so(log, tmp_path, text):
    path = tmp_path / "none.log" if text is None else log(text)
    found = diagnose(path, Engine.log_patterns, prefix=Engine.log_prefix)
    assert (found.cause, found.tail) == ("it printed nothing", [])


@pytest.mark.parametrize("prefix", [SERVER, f"\x1b[1;36m{SERVER.strip()}\x1b[0;0m "], ids=["plain", "coloured"])
def test_the_tail_is_short_and_without_noise(log, prefix):
    lines = [f"{prefix}INFO 03-14 09:26:40 [api_server.py:1] \x1b[31mline {number}\x1b[0m\n" for number in range(40)]
    tail = diagnose(log("\n".join(lines)), (), prefix=Engine.log_prefix).tail
    assert tail == [f"line {number}" for number in range(40 - TAIL_LINES, 40)]


def test_of_a_progress_bar_its_last_state_is_shown(log):
    text = "loading\r\n\rshards:   0%|    | 0/2\rshards:  50%|##  | 1/2\rshards: 100%|####| 2/2\nKeyError: 'x'\n"
    found = diagnose(log(text), ())
    assert found.tail == ["loading", "shards: 100%|####| 2/2", "KeyError: 'x'"]
    assert found.cause == "KeyError: 'x'"


def test_a_long_log_is_read_from_its_end(log):
    path = log("MemoryError: long ago\n" + "loading weights\n" * (READ_BYTES // 10) + "KeyError: 'lm_head'\n")
    assert diagnose(path, ()).cause == "KeyError: 'lm_head'"


def test_bytes_that_are_no_text_do_not_matter(tmp_path):
    path = tmp_path / "engine.log"
    path.write_bytes(b"\xff\xfe\x00 broken\nOSError: [Errno 98] Address already in use\n")
    assert diagnose(path, Engine.log_patterns, prefix=Engine.log_prefix).cause == "the port is taken"


def test_the_last_of_equal_lines_is_the_one_to_show(log):
    less = "is less than desired GPU memory utilization"
    text = (
        f"ValueError: Free memory on device cuda:0 (1/9) {less}\nretrying\n"
        f"ValueError: Free memory on device cuda:1 (2/9) {less}\n"
    )
    assert "cuda:1" in diagnose(log(text), Engine.log_patterns, prefix=Engine.log_prefix).cause
