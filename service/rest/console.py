"""The web console: files of the package, under a policy that lets a browser load nothing from anywhere else."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parents[1] / "console"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text becomes markup or code, whatever a script of the page does
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
# Named here: what a machine's own table calls a script may be something that browsers then refuse to run.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def add_console(app: FastAPI) -> None:
    """`/console`, and `/` on the way there. No key is asked for: the files hold no secret, the calls they make do."""
    app.mount("/console/static", _Files(directory=FOLDER / "static"))

    @app.api_route("/console", methods=["GET", "HEAD"], include_in_schema=False)
    async def console() -> Response:
        return FileResponse(
            FOLDER / "index.html", media_type="text/html", headers={**HEADERS, "cache-control": "no-store"}
        )

    # Places are relative, so that a proxy may serve all of it under a prefix.
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("console")

    @app.api_route("/console/", methods=["GET", "HEAD"], include_in_schema=False)
    async def console_with_slash() -> Response:
        return RedirectResponse("../console")


class _Files(StaticFiles):
    """Kept by browsers, and asked about by ETag each time: after an update nobody runs half of the old one."""

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        """A file, or 304 where the caller has it."""
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update({**HEADERS, "cache-control": "no-cache"})
        kind = _TYPES.get(Path(full_path).suffix)
        if kind is not None and response.status_code == 200:
            response.headers["content-type"] = f"{kind}; charset=utf-8"
        return response
