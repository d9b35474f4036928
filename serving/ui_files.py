"""The page at /ui: static files of this package, with headers that let them load nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from foundation.storage import sha256_bytes

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Content types by the file's ending: what has another is not served."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",  # no text becomes markup, whatever a model is called
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked again each time, and answered with 304: a new server has a new page at once
}


def routes() -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """Path -> endpoint of the page: /ui leads to /ui/, so that addresses beside the page stay relative, below any prefix."""
    found = files("serving").joinpath("ui").iterdir()
    pages = {path.name: path.read_bytes() for path in found if _type(path.name) is not None}

    async def to_page(_request: Request) -> Response:
        return RedirectResponse("ui/")

    async def page(request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        if name not in pages:
            raise HTTPException(404, "Not Found")
        etag = f'"{sha256_bytes(pages[name])[:32]}"'
        headers = {**HEADERS, "etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(pages[name], headers={**headers, "content-type": str(_type(name))})

    return {"/ui": to_page, "/ui/": page, "/ui/{name}": page}


def _type(name: str) -> str | None:
    """The content type of a file, by its ending; None for what is not served."""
    return TYPES.get(name[name.rfind(".") :])
