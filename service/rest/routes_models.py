"""Which model is served: activation, the way back, the jobs that do both, and a candidate in shadow."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.admin import ModelJobs
from service.domain import Job
from service.rest import openapi, render
from service.rest.schemas import JobOptions, JobOut, JobsOut, NoOptions, ShadowOptions, ShadowOut

_STORAGE = ("storage_full", "storage_unavailable", "overloaded")
_CODES = ("invalid_bundle", "device_unavailable", *_STORAGE)


def router(models: ModelJobs, route_class: type[APIRoute]) -> APIRouter:
    """Routes over the application layer."""
    routes = APIRouter(tags=["models"], route_class=route_class)

    @routes.post(
        "/models/rollback",
        status_code=202,
        responses=openapi.answers(JobOut, "not_found", *_CODES, status=202, description="Begun"),
    )
    async def roll_back(_: Annotated[NoOptions, Query()]) -> Response:
        """Serve the model that was promoted before the present one, at once; collections go back with it."""
        return _accepted(await models.roll_back())

    @routes.post(
        "/models/{model_id}/activate",
        status_code=202,
        responses=openapi.answers(JobOut, "not_found", *_CODES, status=202, description="Begun"),
    )
    async def activate(model_id: str, _: Annotated[NoOptions, Query()]) -> Response:
        """Serve a model: promote it, embed collections with stored crops anew, and switch each of them at once.

        A collection that has faces without a crop stays on its model, which goes on being served for it.
        """
        return _accepted(await models.activate(model_id))

    @routes.post(
        "/models/{model_id}/shadow",
        responses=openapi.answers(ShadowOut, "not_found", *_CODES),
    )
    async def begin_shadow(model_id: str, options: Annotated[ShadowOptions, Query()]) -> Response:
        """Compare a share of the 1:1 decisions with those of a candidate. Nothing is answered from it."""
        return render.Json((await models.begin_shadow(model_id, options.share)).document())

    @routes.get("/models/shadow", responses=openapi.answers(ShadowOut, "not_found"))
    async def shadow(_: Annotated[NoOptions, Query()]) -> Response:
        """What the candidate would have decided so far."""
        return render.Json(models.shadow().document())

    @routes.delete("/models/shadow", responses=openapi.answers(ShadowOut, "not_found"))
    async def end_shadow(_: Annotated[NoOptions, Query()]) -> Response:
        """End it; the answer says for the last time what was found."""
        return render.Json((await models.end_shadow()).document())

    @routes.get("/jobs", responses=openapi.answers(JobsOut, *_STORAGE))
    async def list_jobs(options: Annotated[JobOptions, Query()]) -> Response:
        """The newest jobs, newest first."""
        jobs, names = await models.jobs(options.limit)
        return render.Json({"jobs": [render.job(each, names) for each in jobs]})

    @routes.get("/jobs/{job_id}", responses=openapi.answers(JobOut, "not_found", *_STORAGE))
    async def get_job(job_id: str, _: Annotated[NoOptions, Query()]) -> Response:
        """How far a job is, and what became of each collection."""
        return render.Json(render.job(*await models.job(job_id)))

    return routes


def _accepted(job: Job) -> Response:
    return render.Json(render.job(job, {}), 202, headers={"location": f"/jobs/{job.id}"})
