"""For administrators: API keys and the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.admin import Admin
from service.rest import inputs, openapi, render
from service.rest.schemas import AuditOptions, AuditOut, KeyBody, KeyCreatedOut, KeyOut, KeysOut, NoOptions
from service.security.keys import KeyGrant

_STORAGE = ("storage_full", "storage_unavailable", "overloaded")


def router(admin: Admin, route_class: type[APIRoute]) -> APIRouter:
    """Routes over the application layer."""
    routes = APIRouter(tags=["administration"], route_class=route_class)

    @routes.get("/keys", responses=openapi.answers(KeysOut, *_STORAGE))
    async def list_keys(_: Annotated[NoOptions, Query()]) -> Response:
        """All keys, without their secrets: who may do what, when each was used last, which are revoked."""
        return render.Json({"keys": [render.key(each) for each in await admin.keys()]})

    @routes.post(
        "/keys",
        status_code=201,
        responses=openapi.answers(KeyCreatedOut, *_STORAGE, status=201),
        openapi_extra=openapi.json_body(KeyBody),
    )
    async def create_key(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
        """Make a key. The answer is the only place where it ever stands."""
        body = await inputs.read_json(request, KeyBody)
        collections = None if body.collections is None else frozenset(body.collections)
        limits = (body.requests_per_minute, body.requests_per_day)
        grant = KeyGrant(body.name, frozenset(body.scopes), collections, *limits, body.expires_at)
        key, token = await admin.create_key(grant)
        return render.Json({**render.key(key), "key": token}, 201)

    @routes.delete("/keys/{key_id}", responses=openapi.answers(KeyOut, "not_found", *_STORAGE))
    async def revoke_key(key_id: str, _: Annotated[NoOptions, Query()]) -> Response:
        """Revoke a key: it opens nothing any more, from the next call on."""
        return render.Json(render.key(await admin.revoke_key(key_id)))

    @routes.get("/audit", responses=openapi.answers(AuditOut, *_STORAGE))
    async def list_audit(options: Annotated[AuditOptions, Query()]) -> Response:
        """Entries of the audit log, newest first. Pass `next_before` as `before` for the next page."""
        entries = await admin.audit(options.before, options.limit)
        more = entries[-1]["seq"] if len(entries) == options.limit and entries[-1]["seq"] > 1 else None
        return render.Json({"entries": entries, "next_before": more})

    return routes
