"""The FastAPI application: routes, middleware and the one place where errors become answers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from models.errors import FaceError
from service.admin import Admin, ModelJobs
from service.catalogue import Catalogue
from service.errors import InvalidRequestError, NotFoundError
from service.metrics import Metrics
from service.people import People
from service.rest import openapi, routes_admin, routes_faces, routes_models, routes_people, routes_system
from service.rest.console import add_console
from service.rest.deadline import Deadline, Uploads
from service.rest.errors import STATUS, error_response
from service.rest.middleware import BodyLimit, RequestId, SameSite, Unexpected, request_id
from service.rest.room import Room
from service.rest.route import guarded_route
from service.security.access import Access, act_as
from service.served import Served
from service.tracing import Answer

log = logging.getLogger("facesphere.rest")
VERSION = "0.1.0"
_HUNG_UP = 499  # the caller did, before an answer
# FastAPI's own telemetry sends paths, in which people are named, to wherever variables of its own say.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


@dataclass(frozen=True, slots=True)
class RestOptions:
    """Limits of the HTTP side."""

    max_body_bytes: int
    max_pending_bytes: int
    request_timeout_s: float
    loopback_only: bool


@dataclass(frozen=True, slots=True)
class RestParts:
    """What the routes stand on."""

    served: Served
    people: People
    admin: Admin
    model_jobs: ModelJobs
    access: Access
    models: Catalogue
    metrics: Metrics
    is_ready: Callable[[], bool]


def create_app(
    parts: RestParts, options: RestOptions, uploads: Uploads, lifespan: Lifespan[FastAPI] | None = None
) -> FastAPI:
    """The application, ready to be served."""
    app = _Api(
        title="Facesphere",
        version=VERSION,
        summary="Face embedding, verification and identification at a stated false-match rate",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        telemetry=_NO_TELEMETRY,
    )
    _add_routes(app, parts)
    _add_error_handlers(app)
    timeout_s = options.request_timeout_s
    # The last one added is the outermost.
    app.add_middleware(Deadline, seconds=timeout_s, uploads=uploads)
    app.add_middleware(BodyLimit, max_bytes=options.max_body_bytes, max_pending_bytes=options.max_pending_bytes)
    app.add_middleware(
        Room,
        check=lambda within_s: parts.served.default.check_room(within_s),
        authorize=parts.access.check,
        seconds=timeout_s,
    )
    app.add_middleware(SameSite, loopback_only=options.loopback_only)
    app.add_middleware(Unexpected)
    app.add_middleware(Measure, metrics=parts.metrics)
    app.add_middleware(RequestId)
    return app


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(super().openapi())
        return self.openapi_schema


def _add_routes(app: FastAPI, parts: RestParts) -> None:
    def authorize(request: Request) -> None:
        operation = f"{request.method} {request.scope['route'].path}"
        collection = request.path_params.get("collection")
        act_as(parts.access.check(request.headers.get("authorization"), operation, collection))

    guarded = guarded_route(authorize)
    # The first that are looked through are those that are asked most.
    app.include_router(routes_faces.router(parts.served, parts.people, guarded))
    app.include_router(routes_people.router(parts.people, guarded))
    app.include_router(routes_admin.router(parts.admin, guarded))
    app.include_router(routes_models.router(parts.model_jobs, guarded))
    app.include_router(routes_system.router(parts.models, parts.metrics.registry, guarded))
    app.include_router(routes_system.health_router(parts.is_ready))
    _add_browsable_docs(app)
    add_console(app)


def _add_browsable_docs(app: FastAPI) -> None:
    """The OpenAPI document as a page, with files of this machine only: FastAPI's own page loads them from elsewhere."""
    app.mount("/docs/static", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Facesphere API",
            swagger_js_url="/docs/static/swagger-ui-bundle.js",
            swagger_css_url="/docs/static/swagger-ui.css",
            swagger_favicon_url="/docs/static/favicon.png",
        )


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(FaceError)
    async def domain_error(request: Request, error: FaceError) -> Response:
        if STATUS[error.code] == 500:
            log.error("request %s: %s", request_id(request.scope), error.message)
        return error_response(error, request_id(request.scope))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        # Raised by the framework: unknown path, wrong method, malformed multipart.
        domain = NotFoundError if error.status_code == 404 else InvalidRequestError
        response = error_response(domain(str(error.detail)), request_id(request.scope), error.status_code)
        response.headers.update(error.headers or {})  # Allow, of a 405
        return response

    @app.exception_handler(ClientDisconnect)
    async def hung_up(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=_HUNG_UP)  # nobody reads it; without it the log would call this a failure


class Measure:
    """Counts answers and their time, by route template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _HUNG_UP

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = Headers(scope=scope)
        with (
            self._metrics.request("rest", headers, request_id(scope)) as answer,
            self._metrics.open.labels("rest").track_inprogress(),
        ):
            try:
                await self._app(scope, receive, send_noting)
            finally:
                _describe(answer, scope, status)


def _describe(answer: Answer, scope: Scope, status: int) -> None:
    """Say what became of a request: by its route, never its path."""
    method, route = scope["method"], getattr(scope.get("route"), "path", "none")
    answer.route, answer.label = route, str(status)
    answer.code = scope["state"].get("error_code", "cancelled" if status == _HUNG_UP else "ok")
    answer.failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    answer.name = method if route == "none" else f"{method} {route}"
    answer.says = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
