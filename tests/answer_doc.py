"""Writes the table of `docs/explanation/answers.md`: what a server says, and what each backend makes of it.

python tests/answer_doc.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "explanation" / "answers.md"
BEGIN, END = "<!-- answers -->", "<!-- /answers -->"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "scripted")]

from scripted_server import ANSWERS  # noqa: E402

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import Api  # noqa: E402
from evalscope_evalflow.events.answers import AnswerKind  # noqa: E402
from evalscope_evalflow.state.answer_counts import AnswerCounts  # noqa: E402
from evalscope_evalflow.worker.answer_kinds import kinds_of_output  # noqa: E402
from evalscope_evalflow.worker.evalscope_client import refuse_error_texts  # noqa: E402
from evalscope_evalflow.worker.request_failures import classify  # noqa: E402

SAYS = {
    "text": "text",
    "thoughts-and-text": "`reasoning_content`, and text",
    "cut": "text, `finish_reason: length`",
    "open-thought-cut": "`<think>` that is never closed, `finish_reason: length`",
    "thoughts-cut": "`reasoning_content`, `content: null`, `finish_reason: length`",
    "only-thoughts": '`reasoning`, `content: ""`',
    "only-tagged-thoughts": "`<think>…</think>` and nothing after it",
    "empty": '`content: ""`',
    "null": "`content: null`",
    "tool": "`tool_calls`, `content: null`",
    "refusal": "`refusal`",
    "filtered": "`finish_reason: content_filter`",
    "aborted": "text, `finish_reason: abort`",
}
SETTINGS = {"max_tokens": 64, "retries": 1, "retry_interval": 0, "timeout": 10}
NUMBER, OF = 3, 20  # answers of each kind, as the last column has them
Made = list[AnswerKind] | str  # what is unusual about an answer, or why there is none


@contextmanager
def server(port: int) -> Iterator[str]:
    """The scripted server; gives the base URL of its API."""
    command = [sys.executable, "-IS", str(ROOT / "tests" / "scripted" / "scripted_server.py"), "--port", str(port)]
    said = [part for name in ANSWERS for part in ("--say", f"[{name}]={name}")]
    process = subprocess.Popen([*command, "--model", "m", *said], stdout=subprocess.DEVNULL)
    try:
        up = Retrying(retry=retry_if_exception_type(OSError), wait=wait_fixed(0.05), stop=stop_after_delay(20))
        up(lambda: urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close())
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def made_of(ask: Callable[[str], list[AnswerKind]]) -> dict[str, Made]:
    """What a client makes of each of the answers.

    Args:
        ask: asks with a prompt, and returns what is unusual about the answer.
    """
    found: dict[str, Made] = {}
    for name in ANSWERS:
        try:
            found[name] = ask(f"[{name}]")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            kind, transient = classify(error)
            found[name] = f"no answer: {kind.replace('_', ' ')} ({'transient' if transient else 'permanent'})"
    return found


def native(url: str) -> dict[str, Made]:
    """By the client that EvalScope makes for its own backend."""
    from evalscope.api.messages import ChatMessageUser
    from evalscope.api.model import GenerateConfig, get_model

    model: Any = get_model(
        model="m", eval_type="openai_api", base_url=url, api_key="EMPTY", config=GenerateConfig(**SETTINGS),
        model_args={"max_retries": 0}, memoize=False,
    )  # fmt: skip
    refuse_error_texts(model)
    return made_of(lambda prompt: kinds_of_output(model.generate([ChatMessageUser(content=prompt)])))


def vlmevalkit(url: str) -> dict[str, Made]:
    """By the client that VLMEvalKit is given."""
    api = Api("m", url, "EMPTY", SETTINGS, {"max_retries": 0})

    def ask(prompt: str) -> list[AnswerKind]:
        api.ask([{"role": "user", "content": prompt}])
        kinds: list[AnswerKind] = api.answered.kinds
        return kinds

    return made_of(ask)


def table(natives: dict[str, Made], vlms: dict[str, Made]) -> str:
    """The table in Markdown."""
    lines = ["| the server says | Native | VLMEvalKit | shown beside the score |", "|---|---|---|---|"]
    for name, says in SAYS.items():
        lines.append(f"| {says} | {_cell(natives[name])} | {_cell(vlms[name])} | {_shown(natives[name])} |")
    return "\n".join(lines)


def _cell(made: Made) -> str:
    if isinstance(made, str):
        return made
    return ", ".join(["an answer", *(f"`{kind.value}`" for kind in made)])


def _shown(made: Made) -> str:
    if isinstance(made, str):
        return "that it failed, and why"
    thoughts = AnswerKind.CUT_OFF in made and len(made) > 1
    counts = AnswerCounts({kind.value: NUMBER for kind in made}, NUMBER if thoughts else 0, SETTINGS["max_tokens"])
    return "; and ".join(counts.remarks(OF)).replace("<think>", "`<think>`") or "–"


def shown() -> str:
    """The table of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def measured(port: int) -> str:
    """The table as it is now."""
    with server(port) as url:
        return table(native(url), vlmevalkit(url))


if __name__ == "__main__":
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = int(taken.getsockname()[1])
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{measured(free)}\n{END}{after}", encoding="utf-8")
