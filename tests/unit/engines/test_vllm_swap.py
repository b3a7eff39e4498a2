"""Which vLLM can take other weights while it runs, with which options, and what its command has then."""

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import Address, command_of, load_engine
from evalscope_evalflow.engines.base import CONTROL_VARIABLE, KEY_VARIABLE
from evalscope_evalflow.engines.vllm import _SWAP_NEEDS

VLLM = load_engine("vllm")
SHA = "5" * 64


@pytest.fixture
def package(make_env):
    """An environment with the files of vLLM that a swap needs: it, and the package's folder."""
    prefix = make_env()
    folder = prefix / "lib" / "python3.11" / "site-packages" / "vllm"
    for name, text in _SWAP_NEEDS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"class Model:\n    {text}\n")
    (folder.parent / "vllm-0.99.1.dist-info").mkdir()
    return Environment.find(str(prefix)), folder


class TestVersions:
    def test_one_that_has_all_calls(self, package):
        env, _ = package
        assert VLLM.can_swap(env) == ""

    @pytest.mark.parametrize(("name", "text"), _SWAP_NEEDS)
    @pytest.mark.parametrize("left", ["class Model:\n    pass\n", None])
    def test_one_that_lacks_a_call(self, package, name, text, left):
        env, folder = package
        (folder / name).unlink() if left is None else (folder / name).write_text(left)
        assert VLLM.can_swap(env) == "0.99.1 has no call that reads weights into a running engine"

    def test_none_at_all(self, make_env):
        why = VLLM.can_swap(Environment.find(str(make_env("empty"))))
        assert why == "has no call that reads weights into a running engine"

    @pytest.mark.parametrize("name", ["lmdeploy", "llamacpp", "sglang"])
    def test_other_engines_have_no_way(self, package, name):
        assert load_engine(name).can_swap(package[0])


FORBIDDEN = [
    ["--quantization", "awq"], ["--quantization=fp8"], ["-q", "awq"], ["-q=awq"], ["-qawq"], ["--quant", "awq"],
    ["--load_format", "dummy"], ["--load-format=dummy"], ["--load-for=dummy"], ["--model_loader_extra_config", "{}"],
    ["--model-loader-extra-config.a", "1"], ["--model_loader_extra_config.a.b=1"], ["--speculative-config+", "x"],
    ["--speculative-config.method", "ngram"], ["--speculative_config", "{}"], ["-sc", "{}"], ["-sc.method", "ngram"],
    ["--spec-method", "ngram"], ["--enable-lora"], ["--enable_lora"], ["--lora-modules", "a=/b"], ["--worker-cls", "x"],
    ["--worker_extension_cls=x.Y"], ["--worker-ext", "x"], ["--kv-transfer-config", "{}"], ["--kv_transfer_config.a=1"],
    ["--kv-offloading-size", "4"], ["--calculate-kv-scales"], ["--enable-sleep-mode"], ["--runner", "pooling"],
    ["--convert=embed"], ["--task", "embed"], ["--api-server-count", "2"], ["--data-parallel-size=2"], ["-dp", "2"],
    ["-dp=2"], ["-dp2"], ["-dpl", "1"], ["--data_parallel_rank", "1"], ["--data-parallel-hybrid-lb"], ["--nnodes", "2"],
    ["-n", "2"], ["--headless"], ["--middleware", "x"], ["--ssl-keyfile", "x"], ["--uds", "x"], ["--root-path", "/x"],
    ["--config", "/more/options.yaml"], ["--config=/more/options.yaml"], ["--cpu_offload_gb", "4"],
    ["--torchao-config=x"], ["--enforce-eager", "--dtype", "bfloat16", "--quantization", "awq"],
]  # fmt: skip
ALLOWED = [
    [], ["--enforce-eager"], ["--dtype", "bfloat16"], ["-O3"], ["-O", "2"], ["--enable-prefix-caching"], ["-tp", "2"],
    ["--no-enable-prefix-caching"], ["--gpu_memory_utilization=0.5"], ["--max-num-batched-tokens", "512"], ["-pp", "2"],
    ["--kv-cache-dtype", "fp8"], ["--compilation-config.level", "3"], ["-cc.level", "3"], ["--seed", "1"], ["--", "-1"],
    ["--tokenizer", "/t"], ["--hf-overrides", "{}"], ["--reasoning-parser", "x"], ["--trust-remote-code"], ["-1"],
]  # fmt: skip


class TestOptions:
    @pytest.mark.parametrize("words", FORBIDDEN, ids=" ".join)
    def test_with_these_it_starts_anew(self, words):
        assert VLLM.why_no_swap(DeployConfig(extra_args=words)).startswith("extra_args has -")

    @pytest.mark.parametrize("words", ALLOWED, ids=" ".join)
    def test_with_these_it_does_not(self, words):
        assert VLLM.why_no_swap(DeployConfig(extra_args=words)) == ""

    def test_what_is_told_is_the_option_alone(self):
        deploy = DeployConfig(extra_args=["--speculative_config.method=ngram"])
        assert VLLM.why_no_swap(deploy) == "extra_args has --speculative-config"

    @pytest.mark.parametrize(("settings", "why"), [
        ({"data_parallel": 2, "devices": "0,1"}, "it has several replicas"),
        ({"tensor_parallel": 2, "devices": "0,1"}, ""),
    ])  # fmt: skip
    def test_several_replicas(self, settings, why):
        assert VLLM.why_no_swap(DeployConfig(**settings)) == why


def command(checkpoint, control):
    address = Address("127.0.0.1", 8000, "sk-secret", control)
    return command_of(
        VLLM, ModelConfig(name="m", path=str(checkpoint)), DeployConfig(), address, Environment.find(None)
    )


class TestCommand:
    def test_with_control(self, checkpoint_folder):
        found = command(checkpoint_folder, SHA)
        place = found.argv.index("--worker-extension-cls")
        assert found.argv[place + 1] == "evalflow_vllm_weights.Weights"
        assert found.env[CONTROL_VARIABLE] == f"evalflow_vllm_control {SHA}"
        assert found.env[KEY_VARIABLE] == "sk-secret"
        assert SHA not in " ".join(found.argv)

    def test_without(self, checkpoint_folder):
        found = command(checkpoint_folder, "")
        assert CONTROL_VARIABLE not in found.env
        assert not any("evalflow_vllm" in word or "worker-ext" in word for word in found.argv)

    def test_development_mode_is_off(self, checkpoint_folder):
        for control in ("", SHA):
            assert not any(name.startswith("VLLM_SERVER_DEV") for name in command(checkpoint_folder, control).env)

    @pytest.mark.parametrize("name", [CONTROL_VARIABLE, KEY_VARIABLE])
    def test_nobody_else_sets_the_variables(self, name):
        assert name in VLLM.reserved_variables
