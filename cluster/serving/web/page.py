"""The live page: static files beside this module, served as they are. Nothing in them is built or fetched elsewhere.

GET /             the page: microphone or file in, denoised over the WebSocket, heard in the browser
GET /page/{path}  what it consists of
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response

from cluster.serving.errors import ApiError

FOLDER = Path(__file__).resolve().parents[1] / "page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # The page talks to its own server alone, and nobody else may put it into a frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # after an update all files are of one version
}


def add_page(app: FastAPI, folder: Path = FOLDER) -> None:
    """Adds a page and its files to an application; they need no key, for they hold nothing of anybody."""
    # Read once: what a caller asks for is looked up here, and never becomes a path on the disk.
    files = {
        path.relative_to(folder).as_posix(): (path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in folder.rglob("*")
        if path.suffix in MEDIA_TYPES
    }

    def answer(path: str) -> Response:
        if path not in files:
            what = f"the page has no file of this name; it has {', '.join(sorted(files))}"
            raise ApiError(404, "not_found", what)
        content, media_type = files[path]
        return Response(content, media_type=media_type, headers=HEADERS)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @app.get("/page/{path:path}", include_in_schema=False)
    async def part(path: str) -> Response:
        return answer(path)
