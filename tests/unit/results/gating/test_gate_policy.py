"""A gate's policy: what is wrong with one, and what it says of a dataset."""

import pytest

from evalscope_evalflow.errors import ConfigError, ExitCode
from evalscope_evalflow.results.gating.gate_policy import Policy, Tier, check_names, read_policy, rule_of


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not hold a mapping"),
        ("{}", "names no dataset that could decide"),
        ("advisory: [gsm8k]", "names no dataset that could decide"),
        ("critical: {}", "names no dataset that could decide"),
        ("critcal: {gsm8k: {max_drop: 0.1}}", "critcal: unknown key\n    Did you mean 'critical'?"),
        ("critical: {gsm8k: {max_dorp: 0.1}}", "critical.gsm8k.max_dorp: unknown key\n    Did you mean 'max_drop'?"),
        ("critical: {gsm8k: {}}", "critical.gsm8k: says not how far the score may fall"),
        ("critical: {gsm8k: {max_drop: 0}}", "no number of samples can show that there is none"),
        ("critical: {gsm8k: {max_drop: -0.1}}", "greater than or equal to 0"),
        ("critical: {gsm8k: {max_drop: .nan}}", "critical.gsm8k.max_drop"),
        ("critical: {gsm8k: {max_relative_drop: 1.5}}", "has to be less than 1: it is a share"),
        ("critical: {gsm8k: {max_relative_drop: 1}}", "has to be less than 1: it is a share"),
        ("critical: {gsm8k: 0.1}", "critical.gsm8k: says not which drop is meant\n    Write {max_drop: 0.1}."),
        ("supporting: {gsm8k: strict}", "supporting.gsm8k: says not which drop is meant\n    Write {max_drop: 0.02}."),
        ("critical: [gsm8k]", "valid dictionary"),
        ("critical: {a: {max_drop: 0.1}}\nsupporting: {a: {max_drop: 0.1}}", "supporting.a: is in critical already"),
        ("critical: {a: {max_drop: 0.1}}\nmin_share: 0", "greater than 0"),
        ("critical: {a: {max_drop: 0.1}}\ncritical: {b: {max_drop: 0.1}}", "critical: is there twice, again in line 2"),
        ("critical: {a: {max_drop: 0.1}\n", "is neither YAML nor JSON"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_with_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_policy(str(path))
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert error.value.exit_code is ExitCode.BAD_CONFIG


def test_a_policy_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(str(tmp_path / "none.yaml"))


def policy(**data):
    return Policy.model_validate(data)


def test_a_name_that_no_run_has_is_refused_with_the_nearest():
    found = policy(critical={"gsm8": {"max_drop": 0.1}, "mm*": {"max_drop": 0.1}, "*": {"max_drop": 0.1}})
    with pytest.raises(ConfigError, match="Did you mean 'gsm8k'") as error:
        check_names(found, "gate.yaml", ["gsm8k", "mmlu"])
    assert len(error.value.problems) == 1


def test_a_name_counts_before_a_pattern_and_a_long_pattern_before_a_short_one():
    found = policy(
        critical={"mmlu": {"max_drop": 0.01}},
        supporting={"mm*": {"max_drop": 0.02}, "*": {"max_drop": 0.03}},
        advisory=["mmlu_*"],
    )
    assert [rule_of(found, name).max_drop for name in ("mmlu", "mmmu", "gsm8k")] == [0.01, 0.02, 0.03]
    assert rule_of(found, "mmlu_pro").tier is Tier.ADVISORY
    assert rule_of(policy(critical={"a": {"max_drop": 1}}), "b").tier is Tier.NOT_NAMED
