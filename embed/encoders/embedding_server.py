"""Calls an embedding server, as OpenAI's `POST /v1/embeddings` describes it: bounded, retried, every reply checked.

Photos are sent in the form of infinity (`pip install infinity-emb`): `"modality": "image"`, with data URLs as `input`.
"""

import itertools
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import orjson

from embed.encoders.encoder import Vectors, unit_rows
from embed.encoders.encoder_options import EncoderOptions
from embed.errors import BadInput, EmbedError, Missing, Unavailable

MAX_REPLY_BYTES = 32 << 20
MAX_MESSAGE = 200  # characters of a server's message that an error repeats
PATIENCE_S, SHORT_PATIENCE_S = 60.0, 10.0  # for a reply; a busy or absent server is asked again meanwhile,
SHORT_RETRIES_S = 1.0  # or only so long where somebody waits
CONNECT_S, FIRST_WAIT_S = 5.0, 0.25
INPUT_ERRORS = {400, 413, 422}  # HTTP statuses that are about the input


class EmbeddingServer:
    """The model that an encoder names on a server; safe in several threads.

    Each reply must be by the model that was asked for, with one vector of the same dimensions for each input.
    """

    def __init__(self, name: str, model: str, options: EncoderOptions) -> None:
        """Ask the server for the dimensions of its vectors.

        Args:
            name: The encoder's name in the settings, for messages.
            model: The model's name on the server.
            options: Where the server is, its key, and the dimensions to ask for.

        Raises:
            BadInput: An option is missing or invalid.
            Missing: The key is missing.
            Unavailable: The server does not respond as it should.
        """
        self._name, self._model, self._dimensions = name, model, options.truncate_dim
        self._key = self._read_key(options.api_key_variable)
        self._client = httpx.Client(
            base_url=self._check_url(options.base_url),
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            follow_redirects=False,
            trust_env=False,  # a proxy of the environment would see the key and the texts
        )
        self.dim = options.truncate_dim or 0  # unknown until the first reply
        self.dim = self.embed(["any"], is_awaited=True).shape[1]

    def embed(self, inputs: Sequence[str], is_awaited: bool, modality: str = "") -> Vectors:
        """Embed texts or data URLs as unit rows [n, dim], in one request.

        Args:
            inputs: n texts, or n data URLs of images.
            is_awaited: Whether somebody waits for the reply; a busy or absent server is then soon given up.
            modality: `image` for data URLs, empty for texts.

        Raises:
            BadInput: The server refuses the input.
            Unavailable: The server does not respond as it should.
        """
        body: dict[str, Any] = {"model": self._model, "input": inputs, "encoding_format": "float"}
        if self._dimensions:
            body["dimensions"] = self._dimensions
        if modality:
            body["modality"] = modality
        content, started = orjson.dumps(body), time.monotonic()
        deadline = started + (SHORT_PATIENCE_S if is_awaited else PATIENCE_S)
        last_try = min(deadline, started + SHORT_RETRIES_S) if is_awaited else deadline
        for attempt in itertools.count():
            try:
                return self._read_vectors(self._post(content, deadline), len(inputs))
            except _Busy as busy:
                wait = max(busy.after_s, FIRST_WAIT_S * 2.0**attempt * random.uniform(1, 1.5))
                if time.monotonic() + wait > last_try:
                    raise self._fault(f"{busy}, in {attempt + 1} tries: see whether it runs, and try again") from busy
                time.sleep(wait)
        raise AssertionError("at least one try")

    def _post(self, content: bytes, deadline: float) -> bytes:
        """Return the reply to one request; raises _Busy where a retry may help."""
        left = max(0.1, deadline - time.monotonic())
        reply = bytearray()
        try:
            with self._client.stream(
                "POST", "embeddings", content=content, timeout=httpx.Timeout(left, connect=min(left, CONNECT_S))
            ) as response:
                for chunk in response.iter_bytes():
                    reply += chunk
                    if len(reply) > MAX_REPLY_BYTES:
                        raise self._fault(f"sent more than {MAX_REPLY_BYTES >> 20} MiB")
                    if time.monotonic() > deadline:
                        raise _Busy("did not finish its reply")
        except httpx.HTTPError as error:
            raise _Busy(f"does not respond ({type(error).__name__})") from error
        if response.status_code != 200:
            raise self._refusal(response, bytes(reply))
        return bytes(reply)

    def _refusal(self, response: httpx.Response, reply: bytes) -> Exception:
        """Make the error of a response other than 200."""
        status, message = response.status_code, f"HTTP {response.status_code}"
        if said := _message(reply):
            message += f": {said.replace(self._key, '***') if self._key else said}"
        if status == 429 or status >= 500:
            after = response.headers.get("retry-after", "")
            return _Busy(f"responds with {message}", float(after[:9]) if after.isdecimal() else 0.0)
        if status in INPUT_ERRORS:
            return BadInput(f"the embedding server of {self._name} refuses the input ({message})", self._field)
        if response.is_redirect:
            return self._fault("redirects, which is not followed: write its final address into base_url")
        return self._fault(f"refuses the request ({message}): check base_url, model and api_key_variable")

    def _read_vectors(self, reply: bytes, n: int) -> Vectors:
        """Return the vectors of a reply in the order of its n inputs [n, dim]."""
        try:
            document = orjson.loads(reply)
            model, rows = document["model"], document["data"]
            by_index = {row["index"]: row["embedding"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise self._fault("sent a reply that is not a list of embeddings (finite numbers, in JSON)") from error
        if model != self._model:
            raise self._fault(
                f"answered with the model {str(model)[:MAX_MESSAGE]!r}, and {self._model!r} was asked for: write the "
                'name that it has on the server, as model = "NAME"'
            )
        if len(rows) != n or by_index.keys() != set(range(n)):
            raise self._fault(f"sent {len(rows)} vectors for {n} inputs, with the indexes {sorted(by_index)[:8]}")
        try:
            values = np.array([by_index[index] for index in range(n)])
        except ValueError as error:
            raise self._fault("sent vectors of several dimensions") from error
        if values.ndim != 2 or values.dtype.kind not in "if":
            raise self._fault("sent vectors that are not lists of numbers")
        if self.dim and values.shape[1] != self.dim:
            asked = " were asked for" if self._dimensions else " came at first"
            raise self._fault(f"sent vectors of {values.shape[1]} dimensions, and {self.dim}{asked}")
        with np.errstate(over="ignore"):
            vectors = values.astype(np.float32)
        if not (np.isfinite(vectors).all() and vectors.any(1).all()):
            raise self._fault("sent a vector that is not finite, or zero")
        return unit_rows(vectors)

    def _read_key(self, variable: str) -> str:
        """Return the key in an environment variable; empty for no variable."""
        if not variable:
            return ""
        key = os.environ.get(variable, "")
        if not key:
            raise Missing(
                f"encoder {self._name} has no key: set the environment variable {variable}, or leave out "
                "api_key_variable",
                f"{self._field}.api_key_variable",
            )
        if not (key.isascii() and key.isprintable()):
            raise BadInput(
                f"the key in {variable} has a line break, or a character that is not ASCII: set it anew",
                f"{self._field}.api_key_variable",
            )
        return key

    def _check_url(self, url: str) -> httpx.URL:
        field = f"{self._field}.base_url"
        if not url:
            raise BadInput(
                f"encoder {self._name} has no base_url: write the server's address, such as "
                f'base_url = "http://127.0.0.1:8080/v1", below [encoders."{self._name}"] in vetrina.toml',
                field,
            )
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise BadInput(
                f"encoder {self._name} has the base_url {url!r}, which is not a URL ({error})", field
            ) from error
        if parsed.query or parsed.fragment:
            raise BadInput(f"encoder {self._name} has the base_url {url!r}: leave out what follows the path", field)
        return parsed

    @property
    def _field(self) -> str:
        return f"encoders.{self._name}"

    def _fault(self, what: str) -> EmbedError:
        """Make the error of a server; it does not name the address, which callers of a service need not know."""
        return Unavailable(f"the embedding server of {self._name} {what}", self._field)


class _Busy(Exception):
    """A failure that a retry may fix; `after_s` is the wait that the server asked for, in seconds."""

    def __init__(self, what: str, after_s: float = 0.0) -> None:
        super().__init__(what)
        self.after_s = after_s


def _message(reply: bytes) -> str:
    """Return the start of the message in an error's body: that of OpenAI (`error.message`), FastAPI, or plain text."""
    try:
        body = orjson.loads(reply)
        found = body.get("error") or body.get("detail") or body.get("message") or body
        text = str(found.get("message") or found) if isinstance(found, dict) else str(found)
    except (ValueError, AttributeError):
        text = reply.decode(errors="replace")
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"
