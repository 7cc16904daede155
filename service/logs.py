"""What is logged, on stderr: lines to read, or a JSON object each, with the request's id wherever there is one."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

LogFormat = Literal["text", "json"]


def log_to_stderr(level: str, form: LogFormat) -> None:
    """Set up the log of this process, which has none yet.

    What is logged is sentences of ours, names of models, ids and counts: no image, vector or key is handed to a logger.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper())


def belongs_to(request_id: str) -> None:
    """Whatever this task logs from now on is about this request."""
    structlog.contextvars.bind_contextvars(request_id=request_id)


def traced_as(trace_id: str) -> None:
    """Whatever this task logs from now on is part of this trace."""
    structlog.contextvars.bind_contextvars(trace_id=trace_id)


_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _json() -> logging.Formatter:
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    after: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(),
    ]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=after)
