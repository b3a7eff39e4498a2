import pytest

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.errors import ConfigError, EvalFlowError

KEY = "sk-never-to-be-seen"


def problems(data, where="evalflow"):
    with pytest.raises(ConfigError) as caught:
        FlowConfig.parse(data, where)
    return caught.value


@pytest.mark.parametrize(
    ("data", "place", "nearest"),
    [
        ({"modles": []}, "evalflow.modles", "models"),
        ({"deploy": {"tensor_paralel": 2}}, "evalflow.deploy.tensor_paralel", "tensor_parallel"),
        ({"deploy": {"max-model-length": 2}}, "evalflow.deploy.max_model_length", "max_model_len"),
        ({"models": [{"name": "m", "paht": "/x"}]}, "evalflow.models.0.paht", "path"),
        (
            {"models": [{"name": "m", "deploy": {"devcies": "0"}}]},
            "evalflow.models.0.deploy.devcies",
            "devices",
        ),
    ],
)
def test_unknown_key_names_its_place_and_the_nearest(data, place, nearest):
    message = str(problems(data))
    assert message.startswith(f"{place}: unknown key")
    assert f"Did you mean {nearest!r}?" in message


def test_unknown_key_that_is_like_nothing_lists_what_is_known():
    message = str(problems({"xyzzy": 1}))
    assert "Did you mean" not in message
    assert "Known: backend, mode," in message


def test_every_problem_is_reported_at_once():
    error = problems({"modles": [], "mode": "al", "deploy": {"port": 70000}})
    assert {problem.where for problem in error.problems} == {
        "evalflow.modles",
        "evalflow.mode",
        "evalflow.deploy.port",
    }
    assert str(error).startswith("3 problems:")


def test_messages_name_the_section_as_the_caller_does():
    assert problems({"deploy": {"prot": 1}}, where="deploy()").problems[0].where == "deploy().deploy.prot"


@pytest.mark.parametrize(
    ("deploy", "place"),
    [
        ({"port": 0}, "port"),
        ({"max_model_len": 0}, "max_model_len"),
        ({"max_num_seqs": -1}, "max_num_seqs"),
        ({"stall_timeout_s": 0}, "stall_timeout_s"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"data_parallel": -2}, "data_parallel"),
        ({"extra_args": "--enforce-eager"}, "extra_args"),
        ({"env_vars": ["A=1"]}, "env_vars"),
    ],
)
def test_a_value_that_cannot_work_is_refused_where_it_stands(deploy, place):
    error = problems({"deploy": deploy})
    assert all(problem.where.startswith(f"evalflow.deploy.{place}") for problem in error.problems)


@pytest.mark.parametrize(
    "data",
    [
        {"api_key": KEY},
        {"deploy": {"api_kye": KEY}},
        {"deploy": {"port": KEY}},
        {"deploy": KEY},
        {"models": [{"name": "m", "api_key": KEY, "api_ulr": "x"}]},
        {"models": [{"name": 5, "api_key": KEY}]},
    ],
)
def test_no_message_shows_a_value(data):
    error = problems(data)
    assert KEY not in str(error)
    assert KEY not in repr(error)
    assert error.__cause__ is None  # pydantic's own error is not printed above ours


def test_configuration_errors_are_no_value_errors():
    """Pydantic would catch a ValueError inside TaskConfig, and print the input beside it."""
    assert not issubclass(EvalFlowError, ValueError)


def test_dashes_are_underscores_at_every_level():
    flow = FlowConfig.parse(
        {
            "worker-env": "/w",
            "models": [{"name": "m", "api-url": "http://x/v1", "deploy": {"max-num-seqs": 3}}],
            "deploy": {"max-model-len": 5},
        }
    )
    assert flow.worker_env == "/w"
    assert flow.models[0].api_url == "http://x/v1"
    assert flow.deploy_for(flow.models[0]).max_num_seqs == 3
    assert flow.deploy.max_model_len == 5


def test_environment_variables_keep_their_names_and_become_text():
    deploy = FlowConfig.parse({"deploy": {"env_vars": {"WITH-DASH": 1, "FLAG": True}}}).deploy
    assert deploy.env_vars == {"WITH-DASH": "1", "FLAG": "True"}


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        (0, "0"),
        ("0,1", "0,1"),
        ([0, 1], "0,1"),
        (["GPU-a", "GPU-b"], "GPU-a,GPU-b"),
        ("auto", "auto"),
        ("All", "all"),
        (None, "auto"),
        ([], ""),
        ("", ""),
    ],
)
def test_devices_may_be_written_in_every_usual_form(devices, text):
    assert FlowConfig.parse({"deploy": {"devices": devices}}).deploy.devices == text


def test_extra_args_may_hold_numbers():
    assert FlowConfig.parse({"deploy": {"extra_args": ["--seed", 7]}}).deploy.extra_args == ["--seed", "7"]


@pytest.mark.parametrize(("given", "mode"), [("eval", "judge"), ("judge", "judge"), ("all", "all")])
def test_vlmevalkits_word_for_judging_is_understood(given, mode):
    assert FlowConfig.parse({"mode": given}).mode == mode


@pytest.mark.parametrize(("given", "backend"), [("native", "Native"), ("vlmevalkit", "VLMEvalKit")])
def test_backends_are_understood_in_any_case(given, backend):
    assert FlowConfig.parse({"backend": given}).backend == backend


def test_a_models_own_settings_win_and_the_others_stay_common():
    flow = FlowConfig.parse(
        {
            "deploy": {"max_model_len": 4096, "devices": "0"},
            "models": [{"name": "a"}, {"name": "b", "deploy": {"max_model_len": 8192}}],
        }
    )
    first, second = (flow.deploy_for(model) for model in flow.models)
    assert (first.max_model_len, first.devices) == (4096, "0")
    assert (second.max_model_len, second.devices) == (8192, "0")


def test_a_section_survives_being_folded_and_parsed_again():
    data = {
        "backend": "Native",
        "models": [
            {"name": "a", "path": "/a", "deploy": {"api_key": KEY, "devices": [0, 1]}},
            {"name": "b", "api_url": "http://x/v1", "api_key": "${B_KEY}"},
        ],
        "deploy": {"engine": "vllm", "api_key": KEY},
    }
    flow = FlowConfig.parse(data)
    again = FlowConfig.parse(flow.to_section())
    assert again == flow
    assert again.deploy.api_key.get_secret_value() == KEY
    assert again.deploy_for(again.models[0]).api_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    ("given", "found"),
    [(3, "3"), ("0, 1", "0,1"), ([0, "GPU-1a2b"], "0,GPU-1a2b"), ("MIG-x/1", "MIG-x/1"), (" ALL ", "all"), ("", "")],
)
def test_devices_in_all_their_forms(given, found):
    assert FlowConfig.parse({"deploy": {"devices": given}}).deploy.devices == found


@pytest.mark.parametrize("name", ["tensor_parallel", "data_parallel"])
def test_a_setting_of_two_kinds_is_told_once_where_it_stands(name):
    error = problems({"deploy": {name: 0}})
    assert str(error) == f"evalflow.deploy.{name}: Input should be greater than 0, or 'auto'"


@pytest.mark.parametrize("given", ["0,x", ["cuda:0"], True, "-1", "0;1"])
def test_what_is_no_device_is_told(given):
    error = problems({"deploy": {"devices": given}})
    assert str(error).startswith("evalflow.deploy.devices: ")
    assert "is no device: give numbers or UUIDs" in str(error)


def test_only_what_was_set_is_folded():
    assert FlowConfig.parse({"deploy": {"port": 8000}}).to_section() == {"deploy": {"port": 8000}}


def test_keys_are_never_shown_and_references_are():
    flow = FlowConfig.parse(
        {
            "models": [
                {"name": "a", "api_key": KEY, "deploy": {"api_key": KEY}},
                {"name": "b", "api_key": "${B_KEY}"},
            ],
            "deploy": {"api_key": KEY},
        }
    )
    for shown in (flow, flow.model_dump_json(), flow.model_dump(), flow.to_section(), flow.deploy_for(flow.models[0])):
        assert KEY not in repr(shown)
        assert KEY not in str(shown)
    assert flow.model_dump(mode="json")["models"][1]["api_key"] == "${B_KEY}"


def test_the_mask_of_a_key_is_refused():
    error = problems({"deploy": {"api_key": "**********"}})
    assert "is the mask of a key" in str(error)
    assert "${API_KEY}" in str(error)


@pytest.mark.parametrize("word", ["EMPTY", "", None])
def test_no_key_may_be_written_as_evalscope_does(word):
    flow = FlowConfig.parse({"models": [{"name": "m", "api_key": word}], "deploy": {"api_key": word}})
    assert flow.models[0].api_key is None
    assert flow.deploy.api_key is None
