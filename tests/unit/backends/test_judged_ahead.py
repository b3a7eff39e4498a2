"""One answer of a VLMEvalKit dataset is judged ahead, by the dataset's own code, on a file of that answer alone."""

import io
import json
import threading
from pathlib import Path

import pandas
import pytest

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_ahead_judging import JudgeAhead
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import NoVerdict
from evalscope_evalflow.worker.channel import Channel
from evalscope_evalflow.worker.judge_probe import JudgeProbe


class Dataset:
    """As VLMEvalKit's, as far as judging goes; `say` makes the judge's reply."""

    def __init__(self, name, ahead, say):
        self.dataset_name, self.ahead, self.say, self.seen = name, ahead, say, []
        self.data = pandas.DataFrame({"index": [1, 2], "question": ["a", "b"], "image": ["x", "x"]})

    def evaluate(self, file, model, **_):
        assert model == "gpt-4o-mini"
        rows = pandas.read_json(file)
        self.seen.append((Path(file), rows.to_dict("records")))
        self.ahead.track(self.judge, [{"answer": text} for text in rows["prediction"]], keys=list(rows["index"]))
        raise ValueError("a score of one answer is none")

    def judge(self, answer):
        return self.ahead.probe.ask(answer, lambda: self.say(answer))


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def ahead(said):
    probe = JudgeProbe(Channel(said, io.StringIO()), every_thread=True)
    return JudgeAhead(probe, load=None, dump=lambda rows, file: rows.to_json(file), heard=threading.local())


def test_the_datasets_own_code_judges_one_answer_whose_reply_is_kept(ahead, said):
    data = Dataset("shapes", ahead, lambda answer: f"{answer} is right")
    ahead.offer(data, 2, "B", ["shapes"])
    ahead.probe.wait()
    ((file, rows),) = data.seen
    assert rows == [{"index": 2, "question": "b", "prediction": "B"}]
    assert not file.exists()
    assert [json.loads(line)["dataset"] for line in said.getvalue().splitlines()] == ["shapes"]
    assert ahead.probe.ask("B", lambda: "asked again") == "B is right"


def test_why_there_is_no_verdict_is_told_at_once(ahead, said):
    def say(answer):
        raise NoVerdict("server_error", "down")

    ahead.offer(Dataset("shapes", ahead, say), 1, "B", ["shapes"])
    ahead.probe.wait()
    (event,) = map(json.loads, said.getvalue().splitlines())
    assert (event["kind"], event["said"], event["requests"]) == ("server_error", "down", 1)


@pytest.mark.parametrize(("name", "chosen"), [("shapes", []), ("VisuLogic", ["VisuLogic"])])
def test_what_another_model_has_shown_or_no_judge_is_asked_for_is_left(ahead, name, chosen):
    data = Dataset(name, ahead, str)
    ahead.offer(data, 1, "B", chosen)
    ahead.probe.wait()
    assert data.seen == []
