"""What an answer is beside its text: how it is told, written down by the worker, and counted."""

import json

import pytest

from evalscope_evalflow.events.answers import AnswerKind, kinds_of
from evalscope_evalflow.state import answer_counts
from evalscope_evalflow.state.answer_counts import AnswerCounts
from evalscope_evalflow.worker.answer_kinds import KindsFile, kinds_of_output

THOUGHT = {"type": "reasoning", "reasoning": "Maybe A."}


def output(content, stop_reason="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "stop_reason": stop_reason}]}


def text(words, **more):
    return {"type": "text", "text": words, **more}


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        (output("A"), []),
        (output("<think>Maybe B.</think>\n\nA"), []),
        (output([THOUGHT, text("A")]), []),
        (output("A <think>"), []),
        (output("Let me see", "max_tokens"), ["cut_off"]),
        (output("Let me see", "model_length"), ["cut_off"]),
        (output(""), ["empty"]),
        (output(" \n"), ["empty"]),
        (output([THOUGHT, text("")], "max_tokens"), ["cut_off", "only_thoughts"]),
        (output([THOUGHT, text("")]), ["only_thoughts"]),
        (output("<think>Maybe A.</think>\n"), ["only_thoughts"]),
        (output("\n<think>Maybe A. But", "max_tokens"), ["cut_off", "open_thought"]),
        (output("[THINK]Maybe A."), ["open_thought"]),
        (output("", "tool_calls", tool_calls=[{"id": "c"}]), ["tool_call"]),
        (output("A", "tool_calls", tool_calls=[{"id": "c"}]), []),
        (output([text("I cannot do that.", refusal=True)]), ["refused"]),
        ({"choices": []}, ["empty"]),
    ],
)
def test_an_answer_is_told_by_what_the_server_says_of_it(answer, kinds):
    assert [kind.value for kind in kinds_of(answer)] == kinds


def test_a_tool_call_is_an_answer_where_tools_were_offered():
    assert kinds_of(output("", tool_calls=[{"id": "c"}]), tools=True) == []


def test_evalscopes_own_objects_are_read():
    from evalscope.api.messages import ChatMessageAssistant, ContentReasoning, ContentText
    from evalscope.api.model import ModelOutput
    from evalscope.api.model.model_output import ChatCompletionChoice

    message = ChatMessageAssistant(content=[ContentReasoning(reasoning="Maybe A."), ContentText(text="")])
    made = ModelOutput(model="m", choices=[ChatCompletionChoice(message=message, stop_reason="max_tokens")])
    assert kinds_of_output(made) == [AnswerKind.CUT_OFF, AnswerKind.ONLY_THOUGHTS]
    assert kinds_of_output(ModelOutput(model="m")) == kinds_of_output(None) == [AnswerKind.EMPTY]


@pytest.fixture
def write(tmp_path):
    """Writes down answers as a worker does that is started anew for each."""
    (tmp_path / "evalflow").mkdir()

    def add(sample, *kinds, dataset="a", max_tokens=64):
        file = KindsFile(str(tmp_path / "evalflow"), max_tokens)
        file.add(dataset, "default", sample, [AnswerKind(kind) for kind in kinds])

    return add


def test_counts_are_of_the_last_answer_of_each_sample(write, tmp_path):
    write(1, "cut_off")
    write(2, "cut_off", "open_thought")
    write(3, "empty", dataset="b")
    write(4)
    write(1)  # asked again, and well answered
    assert answer_counts.read(tmp_path) == {
        "a": AnswerCounts({"cut_off": 1, "open_thought": 1}, cut_thoughts=1, max_tokens=64),
        "b": AnswerCounts({"empty": 1}),
    }


def test_answers_that_are_as_they_should_be_make_no_file(write, tmp_path):
    write(1)
    assert not answer_counts.path_in(tmp_path).exists()
    assert answer_counts.read(tmp_path) == {}


def test_half_a_line_of_a_killed_worker_costs_no_other(write, tmp_path):
    write(1, "cut_off")
    with answer_counts.path_in(tmp_path).open("a") as file:
        file.write('{"dataset": "a", "sub')
    write(2, "cut_off")
    assert answer_counts.read(tmp_path)["a"].cut_off == 2
    assert all(json.loads(line)["schema"] for line in answer_counts.path_in(tmp_path).read_text().splitlines()[::2])


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (AnswerCounts(), []),
        (
            AnswerCounts({"cut_off": 13}, max_tokens=64),
            ["13 of 20 answers were cut off at max_tokens 64; raise generation_config.max_tokens"],
        ),
        (
            AnswerCounts({"cut_off": 2}, cut_thoughts=1),
            [
                "2 of 20 answers were cut off by the server's own limit (1 of them while still thinking); set "
                "generation_config.max_tokens, or raise deploy.max_model_len"
            ],
        ),
        (
            AnswerCounts({"empty": 1, "only_thoughts": 1, "tool_call": 1, "open_thought": 1, "refused": 3}),
            [
                "3 of 20 answers hold no text: 1 × nothing at all, 1 × only thoughts, 1 × a tool call",
                "1 of 20 answers begin with a <think> that is never closed",
                "3 of 20 answers are refusals",
            ],
        ),
    ],
)
def test_counts_are_told_with_what_to_do(counts, words):
    assert counts.remarks(20) == words
