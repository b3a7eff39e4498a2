"""Input of any type: good tasks with any values put in any of their places, drawn by hypothesis.

`HYPOTHESIS_PROFILE=many` looks at twenty times as many, and at other ones each time. What is drawn is kept small, as
drawing costs more than checking: one value a place, and few places at once.
"""

import atexit
import copy
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import checkpoints
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from evalscope_evalflow.config import DeployConfig, FlowConfig, ModelConfig
from evalscope_evalflow.config.flag_hints import FLAG_PLACES

MANY = 20
settings.register_profile("ci", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("many", settings.get_profile("ci"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def examples(number):
    """Settings for so many examples of the suite, and twenty times as many by hand."""
    by_hand = os.environ.get("HYPOTHESIS_PROFILE") == "many"
    return settings(max_examples=number * MANY if by_hand else number)


def real_files():
    """A folder with a checkpoint, data of two questions, and what is no ordinary file."""
    folder = Path(tempfile.mkdtemp(prefix="any-input-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = checkpoints.dense(64, 2, 4, 2, 128, vocab_size=256, tie_word_embeddings=True)
    checkpoints.write(folder / "checkpoint", config, list(checkpoints.tensors(config)))
    (folder / "data").mkdir()
    row = {"question": "Which?", "A": "this", "B": "that", "answer": "A"}
    (folder / "data" / "t_val.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    for name in ("pipe", "pipe.jsonl", "pipe.gguf", "pipe.jinja", "pipe.yaml"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder


REAL = real_files()
# Opening a pipe that nobody writes to waits for ever; the others are no folders, and cannot be read.
SPECIAL = [
    *(str(REAL / name) for name in ("pipe", "pipe.jsonl", "pipe.gguf", "pipe.jinja", "pipe.yaml", "socket")),
    "/dev/null", "/dev/full", "/proc/self/mem",
]  # fmt: skip
# What means something somewhere, so that more than the first check is reached.
WORDS = [
    "auto", "Native", "VLMEvalKit", "remote", "vllm", "llamacpp", "sglang", "infer", "judge", "eval", "all", "local",
    "inline", "csv", "general_mcq", "general_qa", "gsm8k", "MMBench_DEV_EN", "m", "..", "~", "/", "/x/*.gguf", "{}",
    "[]", "", " ", "0,1", "GPU-x", "-1", "1e9", "nan", "true", "${NOT_SET}", "**********", "EMPTY", "http://[", "%s",
    "http://127.0.0.1:9/v1", "http://me:word@x:99999/v1?a=b", "a\x00b", "\ud83d", "模型", "-", "--x", "a=b", "llm",
    "openai_api", '{"evalflow": {}}', "[" * 3000, "x" * 5000,
]  # fmt: skip
TEXTS = st.sampled_from(WORDS) | st.text(max_size=6)
KEYS = TEXTS | st.integers(-1, 2) | st.none() | st.booleans() | st.dates()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 70000), st.integers(), st.floats(), TEXTS,
    st.dates(), st.datetimes(), st.binary(max_size=3),  # YAML makes them of 2024-01-31 and !!binary
)  # fmt: skip
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(KEYS, SCALARS, max_size=2)

_JUDGE = ("models", "strategy", "contract", "quorum", "aggregation", "generation_config", "parse_retries")
_JUDGES = ("model_id", "judge_id", "api_url", "api_key", "eval_type", "model_args", "generation_config")
_DATASET = (
    "local_path", "subset_list", "few_shot_num", "metric_list", "filters", "extra_params", "aggregation", "shuffle",
    "prompt_template", "dataset_id", "default_subset", "eval_split", "system_prompt",
)  # fmt: skip
_GENERATION = (
    "max_tokens", "temperature", "top_p", "timeout", "retries", "n", "stream", "extra_body", "extra_headers",
    "stop_seqs", "batch_size", "seed", "logprobs",
)  # fmt: skip
_JUDGE_MODEL = {"model_id": "j", "api_url": "http://127.0.0.1:9/v1"}
GOOD = [
    {"model": "m", "api_url": "http://127.0.0.1:9/v1", "datasets": ["general_mcq"], "evalflow": {"backend": "Native"}},
    {
        "datasets": ["general_mcq"],
        "dataset_args": {"general_mcq": {"subset_list": ["t"]}},
        "generation_config": {"max_tokens": 8},
        "judge": {"models": [_JUDGE_MODEL]},
        "evalflow": {
            "backend": "Native",
            "models": [{"name": "m", "path": "/nowhere", "deploy": {"port": 8000}}, {"name": "n", "api_url": "http://x"}],
            "deploy": {"engine": "auto"},
        },
    },
    {
        "datasets": ["general_mcq"],
        "judge": {"strategy": "llm"},
        "evalflow": {
            "backend": "Native",
            "models": [{"name": "m", "path": "/nowhere", "adapter": "/nowhere/lora"}, {"adapter": "/nowhere/alone"}],
            "judge": {"path": "/nowhere/judge", "deploy": {"engine": "llamacpp"}},
        },
    },
    {
        "datasets": ["general_mcq"],
        "dataset_args": {"general_mcq": {"local_path": str(REAL / "data"), "subset_list": ["t"]}},
        "evalflow": {
            "backend": "Native",
            "models": [{"name": "m", "path": str(REAL / "checkpoint"), "deploy": {"max_num_seqs": 2}}],
            "deploy": {"engine": "vllm"},
        },
    },
]  # fmt: skip


def places(fields):
    """Every place of a task: stock fields, what is in them, and all of the section; some keys are none."""
    section = [*FlowConfig.model_fields, "modles"]
    deploy, model = [*DeployConfig.model_fields, "prot"], [*ModelConfig.model_fields, "paht"]
    return [
        *((name,) for name in [*fields, "evalflow", "evalflwo", *FLAG_PLACES]),
        *(("evalflow", name) for name in section),
        *(("evalflow", "deploy", name) for name in deploy),
        *(("evalflow", "models", 0, name) for name in model),
        *(("evalflow", "models", 0, "deploy", name) for name in deploy),
        ("evalflow", "models", 0),
        *(("evalflow", "judge", name) for name in model),
        *(("evalflow", "judge", "deploy", name) for name in deploy),
        ("datasets", 0),
        ("dataset_args", "general_mcq"),
        ("dataset_args", 0),
        *(("dataset_args", "general_mcq", name) for name in _DATASET),
        *(("generation_config", name) for name in _GENERATION),
        *(("judge", name) for name in _JUDGE),
        ("judge", "models", 0),
        *(("judge", "models", 0, name) for name in _JUDGES),
    ]


def put(data, place, value):
    """Put a value at a place of a tree, if the way there still is one."""
    *way, last = place
    for step in way:
        if isinstance(data, dict):
            data = data.setdefault(step, [{}] if step == "models" else {})
        elif isinstance(data, list) and data and step == 0:
            data = data[0]
        else:
            return
    if isinstance(data, dict) or (isinstance(data, list) and data and last == 0):
        data[last] = value


def tasks(fields):
    """Good tasks with something at one to three places."""

    def made(base, changes):
        data = copy.deepcopy(GOOD[base])
        for place, value in changes:
            put(data, place, value)
        return data

    change = st.tuples(st.sampled_from(places(fields)), VALUES)
    return st.builds(made, st.integers(0, len(GOOD) - 1), st.lists(change, min_size=1, max_size=3))


SECTIONS = tasks([]).map(lambda data: data.get("evalflow")) | VALUES
FLAG_NAMES = [*sorted(FLAG_PLACES), "verify_md5", "reuse", "worker_env", "judge_max_num_seqs"]
JSONS = [
    '{"a": 1}',
    "{}",
    '{"general_mcq": {"local_path": 1}}',
    "[",
    "null",
    '{"a":' * 2000,
    "1e999",
    "NaN",
    "9" * 5000,
]
FLAG_WORDS = TEXTS | st.sampled_from(JSONS) | st.integers().map(str) | st.floats().map(str)
FLAGS = st.lists(
    st.tuples(st.sampled_from(FLAG_NAMES), st.lists(FLAG_WORDS, min_size=1, max_size=2), st.booleans()),
    min_size=1,
    max_size=3,
)
GOOD_FLAGS = {"work_dir": "work", "eval_model_name": "m", "remote_api_url": "http://127.0.0.1:9/v1"}


def argv(flags):
    """The words of a command line: a flag in one word, or in two and more; what is needed is there."""
    given = {name for name, _, _ in flags}
    words = ["--dry_run"]
    for name, value in GOOD_FLAGS.items():
        words += [] if name in given else [f"--{name}", value]
    for name, values, joined in flags:
        words += [f"--{name}={values[0]}"] if joined else [f"--{name}", *values]
    return words
