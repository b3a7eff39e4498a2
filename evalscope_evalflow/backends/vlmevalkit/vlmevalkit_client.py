"""VLMEvalKit's two clients, of the model and of the judge, speaking through EvalScope's.

VLMEvalKit's own take the text of an error for an answer, ask for up to an hour, choose a host by parts of a model's
name, and print the key. These raise what went wrong, and mean by `generation_config` what EvalScope means by it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import digest
from evalscope_evalflow.events.answers import AnswerKind
from evalscope_evalflow.worker.answer_kinds import kinds_of_output
from evalscope_evalflow.worker.budget import NOWHERE, Budget
from evalscope_evalflow.worker.credentials import JUDGE_KEY
from evalscope_evalflow.worker.evalscope_client import refuse_error_texts
from evalscope_evalflow.worker.judge_probe import JudgeProbe
from evalscope_evalflow.worker.quick_requests import quicken
from evalscope_evalflow.worker.request_failures import WHOLE_RUN, Unanswered, classify, error_text

JUDGE_PATIENCE = {"timeout": 300, "retries": 3, "retry_interval": 5}
_JUDGED_WITH = {"temperature": 0, "max_tokens": 2048}
_SAMPLING = ("temperature", "max_tokens", "top_p")


class NoVerdict(Exception):
    """The judge gave no reply.

    Attributes:
        kind: why, in a word.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Api:
    """An OpenAI-compatible API, asked in EvalScope's way.

    Attributes:
        answered: of this thread, in `kinds`: what is unusual about its last answer.
        before_request: is called before each request of a judge's.
    """

    def __init__(self, model: str, url: str, key: str, settings: dict[str, Any], model_args: dict[str, Any]) -> None:
        """
        Args:
            model: the name that the API knows.
            url: its base URL, or that of its chat completions.
            key: its key.
            settings: `generation_config`.
            model_args: arguments of the OpenAI client.
        """
        from evalscope.api.model import GenerateConfig, get_model

        config = GenerateConfig(**settings)
        self.model = get_model(
            model=model, eval_type="openai_api", base_url=base_url(url), api_key=key, config=config,
            model_args=model_args, memoize=False,
        )  # fmt: skip
        refuse_error_texts(self.model)
        quicken(self.model)
        self.settings = settings
        self.answered = threading.local()
        self.before_request: Callable[[], None] = lambda: None
        self._refusal: Exception | None = None  # of every request

    def ask(self, messages: list[dict[str, Any]], **more: Any) -> str:
        """One answer, which may be no text at all.

        Args:
            messages: as OpenAI's API has them.
            more: settings of this request, which those of the task go before.

        Raises:
            Exception: as `classify` knows it.
        """
        from evalscope.api.model import GenerateConfig

        if self._refusal is not None:
            raise self._refusal
        try:
            output = self.model.generate(_messages(messages), config=GenerateConfig(**{**more, **self.settings}))
        except Exception as error:
            if classify(error)[0] == "run":
                self._refusal = error
            raise
        self.answered.kinds = kinds_of_output(output)
        return str(output.completion or "").strip()


def base_url(url: str) -> str:
    """A URL as OpenAI's client wants it."""
    return url.rstrip("/").removesuffix("/chat/completions")


def _messages(messages: list[dict[str, Any]]) -> list[Any]:
    from evalscope.api.messages import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return [kinds[item["role"]](content=_content(item["content"])) for item in messages]


def _content(content: Any) -> Any:
    from evalscope.api.messages import ContentImage, ContentText

    if isinstance(content, str):
        return content
    parts: list[Any] = []
    for part in content:
        if part["type"] == "text":
            parts.append(ContentText(text=part["text"]))
        elif part["type"] == "image_url":
            image = part["image_url"]
            parts.append(ContentImage(image=image["url"], detail=image.get("detail", "auto")))
        else:
            raise Unanswered("unsupported", False, f"a {part['type']} cannot be sent to this API")
    return parts


def make_model_class(api_of: Any, defaults: dict[str, Any]) -> Any:
    """VLMEvalKit's model, whose answers are the server's own.

    Args:
        api_of: gives the Api, waiting for it if need be.
        defaults: VLMEvalKit's own settings, where the task has none.
    """
    from vlmeval.api.base import BaseAPI
    from vlmeval.api.gpt import OpenAIWrapper

    class Model(OpenAIWrapper):  # type: ignore[misc]
        """Builds requests as VLMEvalKit does; `generate` raises where that returns the text of an error."""

        is_api = True

        def __init__(self, **_: Any) -> None:
            BaseAPI.__init__(self, verbose=False)
            self.model, self.img_size, self.img_detail = "", -1, "high"
            self.total_img_size, self.max_file_size = -1, 1e9  # since ms-vlmeval 0.0.20; as there by default
            self.fail_msg = "Failed to obtain answer via API. "
            self.VIDEO_LLM = False

        def generate(self, message: Any, dataset: str | None = None, **_: Any) -> str:
            return str(api_of().ask(self.request(message), **defaults))

        def chat(self, messages: Any, dataset: str | None = None, **_: Any) -> str:
            for item in messages:
                item["content"] = self.preproc_content(item["content"])
            return str(api_of().ask(self.prepare_inputs(messages), **defaults))

        def request(self, message: Any) -> list[dict[str, Any]]:
            """The messages of a sample, as OpenAI's API has them."""
            system: list[str] = []
            if self.check_content(message) == "listdict":
                rest = []
                for item in message:
                    part = {key: value for key, value in item.items() if key != "role"}
                    if item.get("role") == "system":
                        system.append(str(item["value"]))
                    else:
                        rest.append(part)
                message = rest
            start = [{"role": "system", "content": "\n".join(system)}] if system else []
            return [*start, *self.prepare_inputs(self.preproc_content(message))]

    return Model


def converse(model: Any, messages: list[dict[str, Any]], dataset_name: str) -> list[str]:
    """VLMEvalKit's `chat_mt`, the answers of a conversation, turn by turn: here a turn that fails ends it.

    Args:
        model: VLMEvalKit's object.
        messages: questions of the user's, each with an answer after it, which is not shown to the model.
        dataset_name: of what dataset.

    Raises:
        Exception: as `classify` knows it.
    """
    said: list[dict[str, Any]] = []
    answers = []
    for question in messages[::2]:
        said.append(question)
        answers.append(model.chat([dict(item) for item in said], dataset=dataset_name))
        said.append({"role": "assistant", "content": answers[-1]})
    return answers


def make_judge_class(api: Api | None, heard: threading.local, probe: JudgeProbe) -> Any:
    """VLMEvalKit's judge, whatever name a dataset gives it.

    Args:
        api: the judge's; None where none is configured.
        heard: is told, in `failed`, why the judge gave no reply, as some datasets catch every exception, and in `said`,
            what it replied last.
        probe: this worker's.
    """
    from vlmeval.api.base import BaseAPI
    from vlmeval.api.gpt import OpenAIWrapper

    class Judge(OpenAIWrapper):  # type: ignore[misc]
        """Says nothing where VLMEvalKit's says that it failed: it raises."""

        def __init__(self, *_: Any, **settings: Any) -> None:
            BaseAPI.__init__(self, verbose=False, system_prompt=settings.get("system_prompt"))
            self.model, self.img_size, self.img_detail = "", -1, "high"
            self.total_img_size, self.max_file_size = -1, 1e9  # since ms-vlmeval 0.0.20; as there by default
            self.fail_msg = "Failed to obtain answer via API. "
            self.settings = {
                name: settings[name]
                for name in ("temperature", "max_tokens", "top_p")
                if settings.get(name) is not None
            }

        def working(self) -> bool:
            """It was asked before the run; what it cannot do now is told verdict by verdict."""
            return True

        def generate(self, message: Any, **settings: Any) -> str:
            request = self.prepare_inputs(self.preproc_content(message))
            given = {name: value for name, value in settings.items() if name in _SAMPLING}
            heard.said = ""
            try:
                if api is None:
                    raise NoVerdict("no_judge", "it takes a judge, and none is configured")
                said, kinds = probe.ask(*_one(api, request, {**_JUDGED_WITH, **self.settings, **given}))
                if not said:
                    raise _no_text(kinds)
                heard.said = said
                return said
            except Exception as error:
                failure = error if isinstance(error, NoVerdict) else _no_verdict(error)
                heard.failed = failure.kind, str(failure)
                raise failure from error

        chat = generate

    return Judge


def _one(api: Api, request: Any, settings: dict[str, Any]) -> tuple[str, Callable[[], tuple[str, list[AnswerKind]]]]:
    """A request to the judge: what tells it apart, and how it is made."""

    def ask() -> tuple[str, list[AnswerKind]]:
        api.before_request()
        return api.ask(request, **settings), api.answered.kinds

    return digest(json.dumps([request, settings], sort_keys=True, default=str)), ask


def install_judge(
    judge: dict[str, Any] | None, heard: threading.local, probe: JudgeProbe, budget: Budget, own_url: str = ""
) -> None:
    """Have every dataset ask the task's judge, whatever it makes its judge of.

    Args:
        judge: EvalScope's settings of the judge; None where there is none.
        heard: see `make_judge_class`.
        probe: this worker's.
        budget: what requests are counted by.
        own_url: base URL of the judge that the sweep deploys, for settings that have none.
    """
    import vlmeval.api

    api, judge = None, with_own_url(judge, own_url)
    if judge is not None:
        settings = {**JUDGE_PATIENCE, **(judge.get("generation_config") or {})}
        key = plain(judge.get("api_key")) or "EMPTY"
        api = Api(judge["model_id"], judge["api_url"], key, settings, client_args(judge.get("model_args")))
        api.before_request = budget.judge_request
        budget.watch_judge(api.model)
        # For datasets that make a client of their own; nothing else in this process reads them.
        os.environ["OPENAI_API_BASE"] = f"{base_url(judge['api_url'])}/chat/completions"
        os.environ["LOCAL_LLM"], os.environ["OPENAI_API_KEY"] = judge["model_id"], key
    else:  # with neither, VLMEvalKit asks a public host
        os.environ["OPENAI_API_BASE"], os.environ["OPENAI_API_KEY"] = f"{NOWHERE}/chat/completions", "EMPTY"
        os.environ.pop("LOCAL_LLM", None)
    judge_class = make_judge_class(api, heard, probe)
    for name in ("OpenAIWrapper", "SiliconFlowAPI", "HFChatModel"):  # all that VLMEvalKit makes judges of
        setattr(vlmeval.api, name, judge_class)


def with_own_url(judge: dict[str, Any] | None, url: str) -> dict[str, Any] | None:
    """Settings of a judge with the URL and key of the one that the sweep deploys, where the task names none.

    Args:
        judge: EvalScope's settings.
        url: its base URL; empty where nothing is to be judged.
    """
    if judge is None or judge.get("api_url"):
        return judge
    return {**judge, "api_url": url or NOWHERE, "api_key": os.environ.get(JUDGE_KEY, "EMPTY")}


def client_args(model_args: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the OpenAI client: it is EvalScope that asks again."""
    return {"max_retries": 0, **{name: plain(value) for name, value in (model_args or {}).items()}}


def plain(value: Any) -> Any:
    """A key itself, where it is a SecretStr."""
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def _no_text(kinds: list[AnswerKind]) -> NoVerdict:
    cut = ", and was cut off at max_tokens" if AnswerKind.CUT_OFF in kinds else ""
    if AnswerKind.ONLY_THOUGHTS in kinds:
        return NoVerdict("only_thoughts", f"it only thought{cut}")
    return NoVerdict("empty", f"the reply is empty{cut}")


def _no_verdict(error: Exception) -> NoVerdict:
    kind, _ = classify(error)
    if kind == "run":
        status = getattr(error, "status_code", None)
        return NoVerdict("judge_refuses", f"{WHOLE_RUN.get(status or 0, 'refused')}: {error_text(error)}")
    return NoVerdict(kind, error_text(error))
