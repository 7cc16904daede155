"""The server itself: health, models, metrics."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from service.catalogue import Catalogue
from service.errors import NotReadyError
from service.rest import openapi, render
from service.rest.schemas import HealthOut, ModelFullOut, ModelsOut, NoOptions


def health_router(is_ready: Callable[[], bool]) -> APIRouter:
    """Probes for an orchestrator; they need no key."""
    routes = APIRouter(prefix="/health", tags=["system"])

    @routes.head("/live", include_in_schema=False)
    @routes.get("/live", responses=openapi.answers(HealthOut))
    async def live() -> Response:
        """The process answers."""
        return render.Json({"status": "live"})

    @routes.head("/ready", include_in_schema=False)
    @routes.get("/ready", responses=openapi.answers(HealthOut))
    async def ready() -> Response:
        """Models are loaded and warm, and the server is not stopping."""
        if not is_ready():
            raise NotReadyError("the server is starting or stopping")
        return render.Json({"status": "ready"})

    return routes


def router(models: Catalogue, registry: CollectorRegistry, route_class: type[APIRoute]) -> APIRouter:
    """Models and metrics."""
    routes = APIRouter(tags=["system"], route_class=route_class)

    @routes.get("/models", responses=openapi.answers(ModelsOut))
    async def list_models(_: Annotated[NoOptions, Query()]) -> Response:
        """Models of the registry: which are promoted, and which the server runs."""
        return render.Json({"models": [render.manifest(each) for each in models.all()]})

    @routes.get("/models/{model_id}", responses=openapi.answers(ModelFullOut, "not_found", "invalid_bundle"))
    async def get_model(model_id: str, _: Annotated[NoOptions, Query()]) -> Response:
        """All that is known of a model: input, provenance, calibration point by point, card, signers."""
        return render.Json(render.model_detail(models.one(model_id)))

    @routes.get("/metrics", response_class=Response, include_in_schema=False)
    async def metrics(_: Request) -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
