"""`judge` in the section: EvalScope's settings of it, what is refused, and what its verdicts depend on."""

import pytest

from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run import fingerprints


def task(own, deploy=None, **stock):
    models = [{"name": "m", "path": "/m"}]
    section = {"backend": "Native", "models": models, "judge": own, "deploy": deploy or {}}
    return Task.parse({"datasets": ["general_mcq"], "work_dir": "/tmp/w", **stock, "evalflow": section})


def test_evalscopes_settings_are_made_of_it_and_written_down_as_the_user_wrote_them():
    found = task("/models/boss", judge={"strategy": "llm"})
    assert found.stock["judge"] == {"strategy": "llm", "models": [{"model_id": "boss"}]}
    part = found.part(found.models[0])
    assert part["judge"] == {"strategy": "llm"}
    assert part["evalflow"]["judge"] == {"name": "boss", "path": "/models/boss"}
    assert Task.parse(part).stock == found.stock


@pytest.mark.parametrize(
    ("judge", "stock", "where", "says"),
    [
        ("/b", {"judge": {"models": [{"model_id": "j", "api_url": "http://h/v1"}]}}, "judge.models", "Keep"),
        ({"name": "b", "api_url": "http://h/v1"}, {}, "evalflow.judge", "Name it beside the section"),
        ({"path": "/b", "deploy": {"engine": "remote"}}, {}, "evalflow.judge", "Name it beside the section"),
        ({"name": "b"}, {}, "evalflow.judge.path", "Name the judge's checkpoint"),
        ({"path": "/b", "deplyo": {}}, {}, "evalflow.judge.deplyo", "Did you mean 'deploy'?"),
    ],
)
def test_what_is_no_judge_to_deploy_is_refused(judge, stock, where, says):
    with pytest.raises(ConfigError) as error:
        task(judge, **stock)
    [problem] = error.value.problems
    assert problem.where == where
    assert says in problem.todo


def test_the_common_deploy_is_the_judges_too_but_for_the_engine_of_apis():
    found = task({"path": "/b", "deploy": {"max_model_len": 9}}, {"engine": "vllm", "max_model_len": 5})
    assert (judge_deploy(found.flow).engine, judge_deploy(found.flow).max_model_len) == ("vllm", 9)
    assert judge_deploy(task("/b", {"engine": "remote"}).flow).engine == "auto"


def test_its_verdicts_depend_on_its_checkpoint_and_its_engines_settings(tmp_path):
    gguf = tmp_path / "boss.gguf"
    gguf.write_bytes(b"one")

    def verdicts(**deploy):
        deploy = {"engine": "llamacpp", "max_model_len": 64, **deploy}
        return fingerprints.verdicts(task({"path": str(gguf), "deploy": deploy}))

    before = verdicts()
    assert verdicts(max_num_seqs=3, port=1234, devices="1", max_restarts=0) == before
    assert verdicts(extra_args=["--rope-scaling", "yarn"]) != before
    assert verdicts(max_model_len=32) != before
    gguf.write_bytes(b"another")
    assert verdicts() != before
