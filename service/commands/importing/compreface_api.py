"""A running CompreFace 0.6 or later, asked by its REST API for the people of a recognition service."""

from typing import Any

import httpx

from service.commands.importing.compreface import listed
from service.commands.importing.source import BadRecordError, NoPhotoError, Source, SourcePhoto
from service.errors import InvalidRequestError

_PAGE = 200


def read_running(url: str, key: str | None) -> Source:
    """All examples that it lists; their images are fetched as they are needed.

    Raises:
        InvalidRequestError: it cannot be reached, or refuses.
    """
    if key is None:
        raise InvalidRequestError("a running CompreFace asks for the API key of its recognition service: --source-key")
    return _Running(url, key).read()


class _Running:
    """Asked as its documentation of the REST API says."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1/recognition", headers={"x-api-key": key}, timeout=60
        )

    def read(self) -> Source:
        problems: list[str] = []
        try:
            found = list(listed(self._pages(), problems))
        except BaseException:
            self._http.close()
            raise
        photos = [SourcePhoto(image, subject, self._reader(image)) for image, subject in found]
        return Source("compreface", photos, problems=problems, close=self._http.close)

    def _pages(self) -> list[Any]:
        pages: list[Any] = []
        while True:
            answer = self._get("/faces", page=len(pages), size=_PAGE)
            try:
                page = answer.json()
                total = int(page["total_pages"]) if page["faces"] else 0  # whatever is promised after an empty page
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequestError(f"{answer.url} does not answer as CompreFace 0.6 or later does") from error
            pages.append(page)
            if len(pages) >= total:
                return pages

    def _get(self, path: str, **query: int) -> httpx.Response:
        try:
            answer = self._http.get(path, params=query)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise InvalidRequestError(f"CompreFace: {error}") from error
        return answer

    def _reader(self, image: str) -> Any:
        def read() -> bytes:
            try:
                content = self._get(f"/faces/{image}/img").content
            except InvalidRequestError as error:
                raise BadRecordError(error.message) from error
            if not content:  # so it answers where it was told to keep no images
                raise NoPhotoError
            return content

        return read
