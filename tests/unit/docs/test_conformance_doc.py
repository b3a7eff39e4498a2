"""The table of the conformance suite is that of a run in which everything passed."""

import pytest
from conformance_doc import BEGIN, DOCUMENT, END, everything_passed, passed_in, table
from test_conformance import SUITES

from evalscope_evalflow.engines import known_engines, load_engine
from evalscope_evalflow.testing.engine_suite import AREAS, EngineConformance, ServerConformance, count_tests
from evalscope_evalflow.testing.remote_suite import APIConformance


def test_the_table_is_that_of_the_suites():
    text = DOCUMENT.read_text()
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()
    assert shown == table(everything_passed())


def test_every_engine_has_a_suite_of_its_kind():
    known = {name for name in known_engines() if not name.startswith("scripted-")}  # the scripted one once more
    assert known <= set(SUITES)
    for name in known:
        assert issubclass(SUITES[name], EngineConformance if load_engine(name).local else APIConformance)
    assert {SUITES["llamacpp"].__base__, SUITES["vllm"].__base__} == {ServerConformance}


def test_every_area_is_tested_and_a_server_has_more_of_it():
    assert all(count_tests(ServerConformance).values())
    assert [name for name in AREAS if not count_tests(EngineConformance)[name]] == ["readiness"]


@pytest.mark.parametrize("suite", [ServerConformance, APIConformance])
def test_every_test_belongs_to_an_area(suite):
    names = [name for name in dir(suite) if name.startswith("test_")]
    assert len(names) == sum(count_tests(suite).values())


@pytest.mark.parametrize("what", ["failure", "error", "skipped"])
def test_what_did_not_pass_is_shown(tmp_path, what):
    noted = '<properties><property name="conformance" value="vllm/failure"/></properties>'
    case = f'<testcase name="{{0}}">{noted}{{1}}</testcase>'
    file = tmp_path / "report.xml"
    file.write_text(
        f"<r>{case.format('test_a', '')}{case.format('test_b[x]', '')}{case.format('test_b[y]', f'<{what}/>')}</r>"
    )
    assert passed_in(file) == {("vllm", "failure"): 1}
    assert f"**1 of {count_tests(SUITES['vllm'])['failure']} pass**" in table(passed_in(file))
