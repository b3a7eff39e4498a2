"""An OpenAI-compatible API behind TLS, with a certificate authority of its own, in this process."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import Self

Reply = tuple[int, Mapping[str, str], Any]  # status, headers, body as JSON


class Authority:
    """A certificate authority.

    Attributes:
        file: its certificate; a client that has it in SSL_CERT_FILE trusts what it has signed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "authority.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
        certificate = (
            self._builder(self._name, self._key, days=1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, host: str = "localhost", days: float = 1) -> ssl.SSLContext:
        """A server's side of TLS, with a certificate for a host.

        Args:
            host: its name; 127.0.0.1 is in the certificate only beside localhost.
            days: how long it is valid from now on; below 0: for how long it is no more.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = (
            self._builder(subject, key, days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain, secret = self.folder / f"{host}{days}.pem", self.folder / f"{host}{days}.key"
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, secret)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


class TlsServer:
    """Serves some models.

    Attributes:
        asked: bodies of the chat requests that it was sent; preflight's question is not one of them.
        reply: what it says to the n-th of them (from 1) in place of an answer, if anything.
        context: its side of TLS; another one holds for connections that are made from then on. None: plain HTTP.
    """

    def __init__(self, context: ssl.SSLContext | None, models: list[str], key: str) -> None:
        self.context, self.models, self.key = context, models, key
        self.asked: list[dict[str, Any]] = []
        self.reply: Callable[[int], Reply | None] = lambda _: None
        self._lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.has_key():
                    listed = [{"id": name, "object": "model"} for name in api.models]
                    self.answer(200, {}, {"object": "list", "data": listed})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.has_key():
                    return None
                number = 0
                if body.get("max_tokens") != 1:
                    with api._lock:
                        api.asked.append(body)
                        number = len(api.asked)
                said = api.reply(number)
                if said is not None:
                    return self.answer(*said)
                if body["model"] not in api.models:
                    return self.answer(404, {}, {"error": {"message": f"there is no model {body['model']}"}})
                return self.answer(200, {}, completion(body["model"]))

            def has_key(self) -> bool:
                if self.headers.get("Authorization") == f"Bearer {api.key}":
                    return True
                self.answer(401, {}, {"error": {"message": "Unauthorized"}})
                return False

            def answer(self, status: int, headers: Mapping[str, str], body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                """The handshake, in the connection's own thread."""
                if api.context is not None:
                    try:
                        request = api.context.wrap_socket(request, server_side=True)
                    except OSError:  # the client does not trust us
                        return
                try:
                    super().finish_request(request, client_address)
                finally:
                    request.close()

            def shutdown_request(self, request: Any) -> None:
                try:
                    super().shutdown_request(request)
                except OSError:
                    request.close()

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://localhost:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def completion(model: str, text: str = "The answer is 4.") -> dict[str, Any]:
    """A chat completion that says a text."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
