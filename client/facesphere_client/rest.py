"""Carries calls over REST, by httpx."""

import email.utils
import ssl
import time
from typing import Any, TypeVar

import httpx

from facesphere_client import rest_answers
from facesphere_client.calls import Call
from facesphere_client.errors import ConnectionFailedError, FacesphereError, ProtocolError, TimedOutError, refused
from facesphere_client.options import Options
from facesphere_client.rest_requests import Request, request

T = TypeVar("T")


class RestTransport:
    """Usable from several threads at once."""

    def __init__(self, url: str, options: Options) -> None:
        self._http = httpx.Client(**_settings(url, options))

    def send(self, call: Call[T]) -> T:
        """Ask once.

        Raises:
            FacesphereError: there was no answer, or one that refuses.
        """
        asked = request(call)
        try:
            answer = self._http.request(**_arguments(asked))
        except httpx.HTTPError as error:
            raise _failed(error) from error
        return _value(call, answer)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncRestTransport:
    """The same in an event loop."""

    def __init__(self, url: str, options: Options) -> None:
        self._http = httpx.AsyncClient(**_settings(url, options))

    async def send(self, call: Call[T]) -> T:
        """Ask once.

        Raises:
            FacesphereError: there was no answer, or one that refuses.
        """
        asked = request(call)
        try:
            answer = await self._http.request(**_arguments(asked))
        except httpx.HTTPError as error:
            raise _failed(error) from error
        return _value(call, answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _settings(url: str, options: Options) -> dict[str, Any]:
    headers = {"user-agent": options.user_agent, "accept": "application/json"}
    if options.key is not None:
        headers["authorization"] = f"Bearer {options.key}"
    return {
        "base_url": url,
        "headers": headers,
        "timeout": httpx.Timeout(options.timeout_s, connect=min(options.timeout_s, 10.0)),
        "verify": _verified_by(url, options),
        "trust_env": options.trust_env,
        "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
    }


def _verified_by(url: str, options: Options) -> ssl.SSLContext | bool:
    if not url.startswith("https://"):
        return False  # there is no certificate, and reading those of the system takes a while
    return True if options.tls is None else options.tls.context()


def _arguments(asked: Request) -> dict[str, Any]:
    arguments: dict[str, Any] = {"method": asked.method, "url": asked.path}
    if asked.query:
        arguments["params"] = asked.query
    if asked.parts:
        arguments["files"] = [(name, ("image", data, "application/octet-stream")) for name, data in asked.parts]
    if asked.json is not None:
        arguments["json"] = asked.json
    return arguments


def _value(call: Call[T], answer: httpx.Response) -> T:
    if not answer.is_success:
        raise _refusal(answer)
    try:
        document = answer.json()
    except ValueError as error:
        raise ProtocolError(f"{answer.url} answered with something that is not JSON", answer.status_code) from error
    return rest_answers.answer(call, document)


def _refusal(answer: httpx.Response) -> FacesphereError:
    retry_after_s = _seconds(answer.headers.get("retry-after"))
    try:
        document = answer.json()
        error = document["error"]
        request_id = document.get("request_id") or answer.headers.get("x-request-id")
        return refused(error["code"], error["message"], error.get("details"), request_id, retry_after_s)
    except (ValueError, KeyError, TypeError, AttributeError):
        what = f"{answer.url} answered {answer.status_code} {answer.reason_phrase}".rstrip()
        return ProtocolError(f"{what}, and not as Facesphere does", answer.status_code, retry_after_s)


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header, which has seconds or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _failed(error: httpx.HTTPError) -> ConnectionFailedError:
    what = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return ConnectionFailedError(f"no connection: {what}", sent=False)
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError(f"no answer in time: {what}")
    return ConnectionFailedError(f"the connection was lost: {what}")
