"""The Models service: which models there are, and which is served."""

from collections.abc import Mapping

from service.admin import ModelJobs
from service.catalogue import Catalogue, Entry
from service.domain import Job
from service.errors import InvalidRequestError
from service.grpc_api.calls import Calls, Context
from service.grpc_api.received import Received
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

_MAX_LIMIT = 1000


class Models(pb_grpc.ModelsServicer):
    """The registry, activation, the way back, and the jobs that do both."""

    def __init__(self, catalogue: Catalogue, jobs: ModelJobs, calls: Calls) -> None:
        self._catalogue = catalogue
        self._jobs = jobs
        self._calls = calls

    async def ListModels(self, received: Received[pb.ListModelsRequest], context: Context) -> pb.ListModelsResponse:  # noqa: N802
        """All models."""

        async def work(_: pb.ListModelsRequest) -> pb.ListModelsResponse:
            return pb.ListModelsResponse(models=[_model(each) for each in self._catalogue.all()])

        return await self._calls.unary("ListModels", context, received, work)

    async def ActivateModel(self, received: Received[pb.ActivateModelRequest], context: Context) -> pb.Job:  # noqa: N802
        """Serve a model."""

        async def work(request: pb.ActivateModelRequest) -> pb.Job:
            return _job(await self._jobs.activate(request.model_id), {})

        return await self._calls.unary("ActivateModel", context, received, work)

    async def RollBackModel(self, received: Received[pb.RollBackModelRequest], context: Context) -> pb.Job:  # noqa: N802
        """Serve the model before."""

        async def work(_: pb.RollBackModelRequest) -> pb.Job:
            return _job(await self._jobs.roll_back(), {})

        return await self._calls.unary("RollBackModel", context, received, work)

    async def GetJob(self, received: Received[pb.GetJobRequest], context: Context) -> pb.Job:  # noqa: N802
        """How far a job is."""

        async def work(request: pb.GetJobRequest) -> pb.Job:
            return _job(*await self._jobs.job(request.job_id))

        return await self._calls.unary("GetJob", context, received, work)

    async def ListJobs(self, received: Received[pb.ListJobsRequest], context: Context) -> pb.ListJobsResponse:  # noqa: N802
        """The newest jobs."""

        async def work(request: pb.ListJobsRequest) -> pb.ListJobsResponse:
            limit = request.limit or 20
            if limit > _MAX_LIMIT:
                raise InvalidRequestError(f"limit must be between 1 and {_MAX_LIMIT}, got {limit}", field="limit")
            jobs, names = await self._jobs.jobs(limit)
            return pb.ListJobsResponse(jobs=[_job(each, names) for each in jobs])

        return await self._calls.unary("ListJobs", context, received, work)


def _model(entry: Entry) -> pb.ModelDetail:
    value = entry.manifest
    licence = value.licence
    return pb.ModelDetail(
        id=value.id,
        kind=value.kind,
        contract_id=value.contract_id,
        dimension=value.dimension,
        architecture=value.architecture,
        licence=pb.Licence(spdx=licence.spdx, commercial_use=licence.commercial_use, note=licence.note),
        origin=value.provenance.origin,
        metrics=value.metrics,
        fmr_range=value.calibration.fmr_range if value.calibration else (),
        champion=entry.champion,
        loaded=entry.loaded,
        standing=entry.standing,
        in_shadow=entry.in_shadow,
    )


def _job(value: Job, names: Mapping[str, str]) -> pb.Job:
    message = pb.Job(
        id=value.id,
        kind=value.kind,
        model_id=value.model_id,
        state=value.state,
        progress=value.progress,
        error=value.error,
        actor=value.actor,
        created_at=value.created_at,
        updated_at=value.updated_at,
    )
    for uid, outcome in sorted(value.result.items()):
        message.collections.add().update({"collection": names.get(uid), **outcome})
    return message
