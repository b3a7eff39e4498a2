"""An OpenAI-compatible server whose behaviour, faults included, is given on its command line.

Standard library only. Its answers are made of the prompt's hash, so that they are the same in every run. The key
that it asks for comes from SCRIPTED_API_KEY; without that it asks for none. Chat requests are numbered from 1, and
the first one is whoever waits for readiness. With a checkpoint, its answers are of the weights' hash, too, and whoever
has the key whose SHA-256 is in SCRIPTED_CONTROL may let it take another one's, at /evalflow/swap.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def status_pair(text: str) -> tuple[int, int]:
    """`K=STATUS`."""
    number, status = text.split("=")
    return int(number), int(status)


def status_text(text: str) -> tuple[int, str]:
    """`STATUS:MESSAGE`."""
    status, message = text.split(":", 1)
    return int(status), message


def text_status(text: str) -> tuple[str, int]:
    """`TEXT=STATUS`."""
    found, status = text.rsplit("=", 1)
    return found, int(status)


def text_answer(text: str) -> tuple[str, str]:
    """`TEXT=ANSWER`."""
    found, answer = text.rsplit("=", 1)
    return found, answer


# What real servers answer: status, and the error in the body.
ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "openai": (
        400,
        {
            "message": "This model's maximum context length is 1024 tokens. However, your messages resulted in 3031 "
            "tokens. Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "vllm": (  # 0.32
        400,
        {
            "message": "This model's maximum context length is 1024 tokens. However, your prompt contains at least "
            "1025 input tokens, which exceeds this limit even without any output tokens. Please reduce the length "
            "of the input prompt.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        },
    ),
    "llamacpp": (
        400,
        {
            "code": 400,
            "message": "request (3031 tokens) exceeds the available context size (1024 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 3031,
            "n_ctx": 1024,
        },
    ),
    "azure": (
        400,
        {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
            "policy.",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
        },
    ),
}


# What real servers answer beside plain text: the message, and the finish reason.
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"content": "ANSWER: A"}, "stop"),
    "thoughts-and-text": ({"content": "ANSWER: A", "reasoning_content": "Maybe B."}, "stop"),
    "cut": ({"content": "Let me see. First"}, "length"),
    "open-thought-cut": ({"content": "<think>Maybe A. But wait"}, "length"),
    "thoughts-cut": ({"content": None, "reasoning_content": "Maybe A. But wait"}, "length"),
    "only-thoughts": ({"content": "", "reasoning": "It is A."}, "stop"),
    "only-tagged-thoughts": ({"content": "<think>It is A.</think>"}, "stop"),
    "empty": ({"content": ""}, "stop"),
    "null": ({"content": None}, "stop"),
    "tool": (
        {
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        "tool_calls",
    ),
    "refusal": ({"content": None, "refusal": "I cannot help with that."}, "stop"),
    "filtered": ({"content": ""}, "content_filter"),
    "aborted": ({"content": "Let me"}, "abort"),
}


SWAP_FAULTS = ["refuse", "die", "hang", "name", "mute", "nan", "change", "odd", "deaf"]


def text_said(text: str) -> tuple[str, str]:
    """`TEXT=ANSWER`, one of ANSWERS."""
    found, name = text.rsplit("=", 1)
    if name not in ANSWERS:
        raise ValueError(name)
    return found, name


def text_form(text: str) -> tuple[str, str]:
    """`TEXT=FORM`."""
    found, form = text.rsplit("=", 1)
    if form not in ERRORS:
        raise ValueError(form)
    return found, form


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--model", required=True, help="served name")
    add("--journal", help="file that every request is appended to, as a JSON line: time, path, hash of the prompt")
    add("--answer-seconds", type=float, default=0, help="how long an answer takes")
    add("--answer", default="ANSWER: {letter}", help="answer every prompt with this; {letter} is by the prompt's hash")
    add(
        "--answer-prompt", type=text_answer, action="append", default=[], metavar="TEXT=ANSWER",
        help="answer prompts that hold the text with this",
    )  # fmt: skip
    add(
        "--say", type=text_said, action="append", default=[], metavar="TEXT=ANSWER",
        help=f"answer prompts that hold the text as real servers do: {', '.join(ANSWERS)}",
    )  # fmt: skip
    start = parser.add_argument_group("the start")
    add = start.add_argument
    add("--load-seconds", type=float, default=0, help="be silent and idle for so long, then listen")
    add("--exit-after-start", type=int, metavar="CODE", help="end with this code instead of listening")
    add("--bind-fails", action="store_true", help="end as if the port were taken")
    add("--bind-fails-once", metavar="FILE", help="the same, if FILE does not exist; it is created")
    add("--silent-stall", action="store_true", help="never listen, say nothing, use no CPU")
    add("--wrong-name", action="store_true", help="serve another name than --model")
    add("--print-key", action="store_true", help="print the key, in one piece and in two")
    add("--flood", type=int, metavar="BYTES", help="print so much before listening")
    add("--unhealthy", action="store_true", help="/health is 503 for ever")
    add("--unhealthy-seconds", type=float, default=0, help="the same, for so long after it has begun to listen")
    end = parser.add_argument_group("the end")
    add = end.add_argument
    add("--ignore-sigterm", action="store_true")
    add(
        "--daemon-children", nargs="?", const="scrubbed", choices=["scrubbed", "kept"],
        help="start a daemon (setsid, double fork) and a child, both deaf to SIGTERM; without or with its environment",
    )  # fmt: skip
    add("--die-after-requests", type=int, metavar="N", help="SIGKILL itself at the chat request after the Nth")
    add("--hang-after", type=int, metavar="N", help="never answer a chat request after the Nth")
    add(
        "--sick-after", type=int, metavar="N",
        help="the same, and /health is 503 from then on, as of vLLM whose engine process has died",
    )  # fmt: skip
    add("--sick-once", type=int, metavar="N", help="after the Nth, /health is 503 once; that is all")
    add("--stop-listening-after", type=int, metavar="N", help="close the port at the chat request after the Nth")
    add("--no-metrics", action="store_true", help="there is no /metrics")
    chat = parser.add_argument_group("chat requests")
    add = chat.add_argument
    add("--reject-chat", type=status_text, metavar="STATUS:MESSAGE", help="refuse them all")
    add(
        "--status-for-request", type=status_pair, action="append", default=[], metavar="N=STATUS", help="refuse the Nth"
    )
    add("--fail-every", type=status_pair, metavar="K=STATUS", help="refuse every Kth")
    add(
        "--fail-prompt", type=text_status, action="append", default=[], metavar="TEXT=STATUS",
        help="refuse every prompt that holds the text",
    )  # fmt: skip
    add(
        "--fail-prompt-like", type=text_form, action="append", default=[], metavar="TEXT=FORM",
        help=f"the same, in the words of a real server: {', '.join(ERRORS)}",
    )  # fmt: skip
    add("--finish-reason", default="stop", help="of every answer")
    add("--stuck-prompt", metavar="TEXT", help="die (SIGKILL) of a prompt that holds the text")
    swap = parser.add_argument_group("weights")
    add = swap.add_argument
    add("--checkpoint", help="folder of the safetensors files that its answers depend on")
    add("--swap-forbidden", action="store_true", help="with this, its engine says, no weights are replaced")
    add("--swap-seconds", type=float, default=0, help="how long it takes, in silence")
    add(
        "--swap-fault", choices=SWAP_FAULTS,
        help="how a swap fails; `deaf`: it knows nothing of control at all",
    )  # fmt: skip
    return parser.parse_args(argv)


def start_children(environment: dict[str, str]) -> None:
    """Start a daemon and a child that ignore SIGTERM; return when both run their own program."""
    up, up_end = os.pipe()  # closed by exec: at its end, both have got there
    argv = [sys.executable, "-ISc", "import time; time.sleep(600)  # of the scripted server"]
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which exec keeps

    def run() -> None:
        try:
            os.execve(argv[0], argv, environment)
        finally:
            os._exit(1)

    if os.fork() == 0:  # the child
        run()
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork() == 0:  # the daemon
            run()
        os._exit(0)
    os.waitpid(between, 0)
    signal.signal(signal.SIGTERM, handler)
    os.close(up_end)
    os.read(up, 1)
    os.close(up)


class Script:
    """What the server does, and what it has done."""

    def __init__(self, args: argparse.Namespace, key: str | None) -> None:
        self.args, self.key = args, key
        self.name = f"not-{args.model}" if args.wrong_name else args.model
        self._lock = threading.Lock()
        self.chats = self.running = self.tokens = 0
        self.sick = False
        self.healthy_at = 0.0  # by the monotonic clock, which all processes share
        self.colds = 0  # looks at /health that are still to be answered with 503
        self.close = threading.Event()
        self.swapped = False
        self.control = os.environ.get("SCRIPTED_CONTROL")
        self.weights = weights_hash(args.checkpoint) if args.checkpoint else ""

    def swap(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take other weights: status and body of the answer."""
        fault, args = self.args.swap_fault, self.args
        print("swapping", flush=True)
        if args.swap_seconds:
            threading.Event().wait(args.swap_seconds)
        if fault == "refuse":
            return 500, {"error": {"message": "SwapError: only a part of x was filled", "code": 500}}
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            threading.Event().wait()
        if fault == "change":
            with next(Path(request["new"]).glob("*.safetensors")).open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\x2a")
        self.weights, self.swapped = weights_hash(request["new"]), True
        self.name = "another" if fault == "name" else request["name"]
        if fault == "odd":
            return 200, {"workers": [{**self.told(), "read_s": None}]}
        return 200, {"workers": [{**self.told(), "compared": 3, "filled": 3, "read_s": 0.1, "proof_s": 0.2}]}

    def told(self) -> dict[str, Any]:
        """Which weights it has."""
        return {"fingerprint": self.weights, "tensors": 3}

    def note(self, path: str, prompt: str | None = None) -> int:
        """Write a request down; return its number among the chat requests."""
        with self._lock:
            if prompt is not None:
                self.chats += 1
            if self.args.journal:
                line = {"time": time.time(), "path": path, "prompt": prompt and short_hash(prompt)}
                with open(self.args.journal, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            return self.chats

    def work(self) -> None:
        """Take the time that an answer takes, a token every tenth of a second."""
        steps = max(1, round(self.args.answer_seconds * 10)) if self.args.answer_seconds else 0
        for _ in range(steps):
            threading.Event().wait(self.args.answer_seconds / steps)
            with self._lock:
                self.tokens += 1

    def refusal(self, number: int, prompt: str) -> tuple[int, str] | None:
        """How the chat request of this number is refused, if it is."""
        args = self.args
        if args.reject_chat:
            return args.reject_chat
        for text, status in args.fail_prompt:
            if text in prompt:
                return status, f"the script refuses prompts with {text!r}"
        for wanted, status in args.status_for_request:
            if number == wanted:
                return status, f"the script refuses request {number}"
        if args.fail_every and number % args.fail_every[0] == 0:
            return args.fail_every[1], f"the script refuses request {number}"
        return None

    def answer(self, body: dict[str, Any], prompt: str) -> tuple[str, dict[str, int]]:
        """Text and usage."""
        own = next((answer for text, answer in self.args.answer_prompt if text in prompt), self.args.answer)
        text = own.replace("{letter}", "ABCD"[int(short_hash(prompt + self.weights), 16) % 4])
        text = text.replace("{weights}", self.weights)
        asked, said = len(prompt.split()), len(text.split())
        usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        return text, usage


def short_hash(text: str) -> str:
    """A hash as the journal has it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_hash(folder: str) -> str:
    """A hash of all weights in a folder."""
    found = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def chunks(name: str, text: str, usage: dict[str, int]) -> Iterator[bytes]:
    """A streamed answer, as server-sent events."""
    base = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": name}
    words = text.split(" ")
    for number, word in enumerate(words):
        delta = {"content": word if number == 0 else f" {word}"}
        if number == 0:
            delta["role"] = "assistant"
        yield event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield event({**base, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def serve(script: Script) -> None:
    """Listen and answer until SIGTERM."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, format: str, *args: Any) -> None:
            print(f"INFO: {self.client_address[0]} - {format % args}", flush=True)  # like uvicorn's access log

        def do_GET(self) -> None:
            script.note(self.path)
            if self.path == "/health":
                cold, script.colds = script.colds > 0, max(0, script.colds - 1)
                cold = cold or time.monotonic() < script.healthy_at
                self.reply(503 if script.args.unhealthy or script.sick or cold else 200, {})
            elif self.path == "/metrics" and not script.args.no_metrics:
                lines = [
                    "# TYPE scripted_chat_requests_total counter",
                    f"scripted_chat_requests_total {script.chats}",
                    "# TYPE scripted_requests_running gauge",
                    f"scripted_requests_running {script.running}",
                    "# TYPE scripted_tokens_total counter",
                    f"scripted_tokens_total {script.tokens}",
                ]
                self.send(200, "text/plain; version=0.0.4", "\n".join([*lines, ""]).encode())
            elif self.path == "/v1/models":
                if self.has_key():
                    card = {"id": script.name, "object": "model", "created": 0, "owned_by": "scripted"}
                    self.reply(200, {"object": "list", "data": [card]})
            else:
                self.fail(404, f"there is no {self.path}")

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if script.control and script.args.swap_fault != "deaf" and self.path.startswith("/evalflow/"):
                script.note(self.path)
                key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                if hashlib.sha256(key.encode()).hexdigest() != script.control:
                    self.fail(401, "the key is no control key")
                elif self.path == "/evalflow/swap":
                    self.reply(*script.swap(json.loads(raw)))
                else:
                    self.reply(200, {"workers": [script.told()]})
                return
            if script.weights and self.path == "/v1/completions" and self.has_key():
                script.note(self.path)
                if script.args.swap_fault == "mute" or json.loads(raw)["model"] != script.name:
                    self.fail(500, "it says nothing")
                    return
                value = float("nan") if script.args.swap_fault == "nan" else -0.5
                self.reply(200, {"choices": [{"text": "2", "logprobs": {"token_logprobs": [value]}}]})
                return
            if self.path != "/v1/chat/completions":
                script.note(self.path)
                self.fail(404, f"there is no {self.path}")
                return
            if not self.has_key():
                script.note(self.path)
                return
            try:
                body = json.loads(raw)
                prompt = json.dumps(body["messages"], sort_keys=True, ensure_ascii=False)
            except (ValueError, KeyError, TypeError) as error:
                script.note(self.path)
                self.fail(400, f"that is no chat request: {error!r}")
                return
            number = script.note(self.path, prompt)
            script.running += 1
            try:
                self.chat(body, prompt, number)
            finally:
                script.running -= 1

        def chat(self, body: dict[str, Any], prompt: str, number: int) -> None:
            args = script.args
            if args.die_after_requests is not None and number > args.die_after_requests:
                tell_fault()
                os.kill(os.getpid(), signal.SIGKILL)
            if args.hang_after is not None and number > args.hang_after:
                tell_fault()
                threading.Event().wait()
            if args.stuck_prompt and args.stuck_prompt in prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if args.sick_after is not None and number > args.sick_after:
                script.sick = True
                threading.Event().wait()
            if args.sick_once is not None and number == args.sick_once + 1:
                script.colds = 1
            if args.stop_listening_after is not None and number > args.stop_listening_after:
                script.close.set()
                threading.Event().wait()
            for text, form in args.fail_prompt_like:
                if text in prompt:
                    status, error = ERRORS[form]
                    self.reply(status, {"error": error})
                    return
            refusal = script.refusal(number, prompt)
            if refusal:
                tell_fault()
                self.fail(*refusal)
                return
            if body.get("model") != script.name:
                self.fail(404, f"the model {body.get('model')!r} does not exist; there is {script.name!r}")
                return
            script.work()
            text, usage = script.answer(body, prompt)
            if body.get("stream"):
                self.send(200, "text/event-stream", b"".join(chunks(script.name, text, usage)))
                return
            said = next((ANSWERS[name] for found, name in args.say if found in prompt), None)
            message, reason = said or ({"content": text}, args.finish_reason)
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
            self.reply(
                200,
                {
                    "id": "chatcmpl-scripted",
                    "object": "chat.completion",
                    "created": 0,
                    "model": script.name,
                    "choices": [choice],
                    "usage": usage,
                },
            )

        def has_key(self) -> bool:
            if not script.key or self.headers.get("Authorization") == f"Bearer {script.key}":
                return True
            self.fail(401, "the key is wrong, or there is none")
            return False

        def fail(self, status: int, message: str) -> None:
            self.reply(status, {"error": {"message": message, "type": "scripted", "code": status}})

        def reply(self, status: int, body: dict[str, Any]) -> None:
            self.send(status, "application/json", json.dumps(body).encode())

        def send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256
        address_family = socket.AF_INET6 if ":" in script.args.host else socket.AF_INET

    server = Server((script.args.host, script.args.port), Handler)
    script.healthy_at = time.monotonic() + script.args.unhealthy_seconds
    print(f"listening on {script.args.host}:{script.args.port}, healthy at {script.healthy_at}", flush=True)

    def close() -> None:
        script.close.wait()
        server.shutdown()

    threading.Thread(target=close, daemon=True).start()
    server.serve_forever()
    server.server_close()
    threading.Event().wait()


def tell_fault() -> None:
    """Say when a fault of the script strikes, by a clock that all processes of the machine share."""
    print(f"a fault of the script, at {time.monotonic():.3f}", flush=True)


def on_sigterm(*_: Any) -> None:
    os._exit(0)


def main() -> None:
    args = parse()
    key = os.environ.get("SCRIPTED_API_KEY")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if args.ignore_sigterm else on_sigterm)
    print("scripted server: loading", args.model, flush=True)
    if args.daemon_children:
        start_children(dict(os.environ) if args.daemon_children == "kept" else {})
        print("the children are up", flush=True)
    if args.print_key and key:
        print(f"the key is {key}", flush=True)
        half = len(key) // 2
        os.write(1, f"in two halves it is {key[:half]}".encode())
        threading.Event().wait(0.2)  # so that they are read apart
        os.write(1, f"{key[half:]}\n".encode())
    if args.flood:
        line = b"x" * 99 + b"\n"
        with open(1, "wb", closefd=False) as out:
            for start in range(0, args.flood, len(line)):
                out.write(line[: args.flood - start])
    if args.load_seconds:
        threading.Event().wait(args.load_seconds)
    if args.exit_after_start is not None:
        tell_fault()
        print(f"ScriptedError: told to end with code {args.exit_after_start}", flush=True)
        sys.exit(args.exit_after_start)
    once = args.bind_fails_once
    if args.bind_fails or (once and not os.path.exists(once)):
        if once:
            open(once, "w").close()
        tell_fault()
        sys.exit("OSError: [Errno 98] Address already in use")
    if args.silent_stall:
        tell_fault()
        threading.Event().wait()
    serve(Script(args, key))


if __name__ == "__main__":
    main()
