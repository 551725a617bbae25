"""One request to Gemini's embedding API, through either of Google's client libraries.

Both speak the same REST protocol (batchEmbedContents, the key in the header x-goog-api-key). google-generativeai is
past its end of life; google-genai is its successor. Each brings tries of its own that nobody sees: they are switched
off, so that :func:`with_retries` alone decides. No error from here has the library's own error behind
it: that one holds the request, and the request holds the key.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from realm_lib.config.base import Secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.models.embedders.vectors import EmbedderError
from realm_lib.models.hosted import RemoteError, Service
from realm_lib.models.quotas import find_quota

_HINTS = {
    400: "the request or the key is not valid: look at GEMINI_API_KEY and at the texts",
    401: "the key is not accepted: look at GEMINI_API_KEY",
    403: "the key may not use this: look at GEMINI_API_KEY, and whether its project may use the Gemini API",
    404: "no such model at this address: look at embedding.model_id and embedding.api_endpoint",
    429: "the limit of your account is reached: lower embedding.requests_per_minute or tokens_per_minute",
}


class GeminiClient(Protocol):
    """Sends one request, once."""

    def embed(self, texts: Sequence[str], task_type: str | None, dimensions: int) -> list[list[float]]:
        """The vectors as they come, unchecked.

        Raises :class:`realm_lib.models.hosted.RemoteError` when there is no answer or a refusal, and
        :class:`EmbedderError` for an answer that cannot be read.
        """


def build_client(params: EmbeddingParams, secret: Secret) -> GeminiClient:
    """The client that ``embedding.sdk`` names. Raises ParamsError when the key is not set."""
    client = GoogleGenAI if params.sdk == "google-genai" else GoogleGenerativeAI
    return client(params, secret)


class GoogleGenerativeAI:
    """The client library google-generativeai."""

    def __init__(self, params: EmbeddingParams, secret: Secret) -> None:
        with warnings.catch_warnings():
            # Each import warns, of the library's or of Python 3.11's end of life; constraints.txt holds both fast.
            warnings.simplefilter("ignore")
            import google.generativeai as sdk
            from google.ai.generativelanguage import GenerativeServiceClient
            from google.api_core.client_options import ClientOptions

        self._service = Service("Gemini", _HINTS, secret)
        self._model = f"models/{params.model_id.removeprefix('models/')}"
        self._timeout = params.timeout
        self._embed_content = sdk.embed_content
        endpoint = params.api_endpoint and params.api_endpoint.rstrip("/")
        options = ClientOptions(api_key=secret.reveal(), api_endpoint=endpoint)
        # A client of its own: sdk.configure would set one for the whole process.
        self._client = GenerativeServiceClient(transport="rest", client_options=options)
        session = self._client.transport._session
        session.max_redirects = 0  # a redirect would take the key's header to another host
        session._refresh_status_codes = ()  # else google-auth "refreshes" the key and asks twice more after a 401

    def embed(self, texts: Sequence[str], task_type: str | None, dimensions: int) -> list[list[float]]:
        """See :class:`GeminiClient`."""
        import requests
        from google.api_core.exceptions import GoogleAPICallError
        from google.protobuf.json_format import ParseError

        failure: RemoteError | EmbedderError
        try:
            answer = self._embed_content(
                model=self._model,
                content=list(texts),
                task_type=task_type,
                output_dimensionality=dimensions,
                client=self._client,
                request_options={"retry": None, "timeout": self._timeout},
            )
            vectors: list[list[float]] = answer["embedding"]
            return vectors
        except GoogleAPICallError as error:
            message = re.sub(r"^POST \S+: ", "", error.message)
            failure = self._service.refusal(int(error.code or 0), message, _wait_of(error), find_quota(error.details))
        except requests.Timeout:
            failure = self._service.timed_out(self._timeout)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            failure = self._service.not_connected(error)
        except requests.RequestException as error:
            said = f"Gemini could not be asked: {type(error).__name__}: {error}"
            failure = RemoteError(self._service.hidden(said))
        except (ParseError, ValueError) as error:
            failure = _not_readable(error, self._service)
        raise failure


class GoogleGenAI:
    """The client library google-genai."""

    def __init__(self, params: EmbeddingParams, secret: Secret) -> None:
        from google import genai
        from google.genai import types

        self._service = Service("Gemini", _HINTS, secret)
        self._model = params.model_id.removeprefix("models/")
        self._timeout = params.timeout
        self._client = genai.Client(
            api_key=secret.reveal(),
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=params.api_endpoint,
                api_version="v1beta",  # what the other library speaks
                timeout=round(params.timeout * 1000),
                client_args={"follow_redirects": False},  # a redirect would take the key's header to another host
            ),
        )

    def embed(self, texts: Sequence[str], task_type: str | None, dimensions: int) -> list[list[float]]:
        """See :class:`GeminiClient`."""
        import httpx
        import httpx2  # google-genai takes it where it is installed
        from google.genai import errors, types

        failure: RemoteError | EmbedderError
        try:
            # Each text is a content of its own: of a list of plain texts the library makes one content of many parts
            # for gemini-embedding-2, which answers it with one vector.
            answer = self._client.models.embed_content(
                model=self._model,
                contents=[types.UserContent(parts=[types.Part(text=text)]) for text in texts],
                config=types.EmbedContentConfig(task_type=task_type, output_dimensionality=dimensions),
            )
            return [embedding.values or [] for embedding in answer.embeddings or []]
        except errors.APIError as error:
            quota = find_quota(error.details)
            failure = self._service.refusal(int(error.code or 0), str(error.message), _wait_of(error), quota)
        except (httpx.TimeoutException, httpx2.TimeoutException):
            failure = self._service.timed_out(self._timeout)
        except (httpx.TransportError, httpx2.TransportError) as error:
            failure = self._service.not_connected(error)
        except ValueError as error:
            failure = _not_readable(error, self._service)
        raise failure


def _wait_of(error: Any) -> str | None:
    """How long to wait: in the header Retry-After or, Google's way, in the body as retryDelay."""
    header: str | None = None if error.response is None else error.response.headers.get("Retry-After")
    return header or _retry_delay(error.details)


def _retry_delay(details: Any) -> str | None:
    """The retryDelay of google.rpc.RetryInfo, wherever the client library put it."""
    if isinstance(details, Mapping):
        if isinstance(delay := details.get("retryDelay"), str):
            return delay
        details = list(details.values())
    if isinstance(details, (list, tuple)):
        return next((delay for part in details if (delay := _retry_delay(part))), None)
    return None


def _not_readable(error: Exception, service: Service) -> EmbedderError:
    return EmbedderError(f"Gemini's answer cannot be read: {service.shown(f'{type(error).__name__}: {error}')}")
