"""The page at /ui: static files of this package, with headers that let them load nothing from elsewhere."""

from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from foundation.storage import sha256_bytes

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Content types by the file's ending: what has another is not served."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked again each time, and answered with 304: a new server has a new page at once
}


def routes() -> list[Route]:
    """The routes of the page: /ui leads to /ui/, so that addresses beside the page stay relative, below any prefix."""
    pages = {
        path.name: path.read_bytes()
        for path in files("serving").joinpath("ui").iterdir()
        if path.name[path.name.rfind(".") :] in TYPES
    }

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

    return [Route("/ui", to_page), Route("/ui/", page), Route("/ui/{name}", page)]


def _type(name: str) -> str | None:
    """The content type of a file, by its ending; None for what is not served."""
    return TYPES.get(name[name.rfind(".") :])
