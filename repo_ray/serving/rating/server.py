"""The page on which people rate: `/TOKEN/` asks for a name, `/TOKEN/r/NAME/7` shows pair 7.

The server keeps no state: whoever comes back, on the same server or another, continues from
their file. It sends no column name, and nothing that depends on the columns but the replies.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import jinja2
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

import repo_ray.evaluation
from repo_ray.serving.rating.facts import facts
from repo_ray.serving.rating.pairs import Pair
from repo_ray.serving.rating.ratings import (
    Choice,
    Note,
    PairKey,
    RatedReply,
    Rating,
    RatingError,
    Seconds,
    Stars,
    append_rating,
    first_fault,
    rater_name,
    ratings_path,
    read_ratings,
)

#: Several times what the longest note takes.
_BODY_LIMIT = 32768
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_RATING_NAMES = ("unusable", "poor", "passable", "good", "excellent")

Side = tuple[str, str]


class Mark(BaseModel):
    """What the page says of one reply."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rating: Stars
    serious: bool


class Answer(BaseModel):
    """What the page sends. `shown` says which texts were on which side (see `_shown`)."""

    model_config = ConfigDict(strict=True, extra="forbid")

    choice: Choice
    left: Mark
    right: Mark
    note: Note
    seconds: Seconds
    shown: Annotated[str, Field(max_length=64)]


class RatingServer:
    """An ASGI application, `app`, that shows `pairs` and appends ratings below `run`.

    `token` is the secret first part of every address. With `rater` it serves that person only.
    `host` is where the server listens; requests that name another host are refused.
    """

    def __init__(
        self,
        run: Path,
        pairs: Sequence[Pair],
        *,
        token: str,
        host: str,
        rater: str | None = None,
        seed: int = 0,
    ) -> None:
        self._run, self._pairs, self._seed = run, pairs, seed
        self._rater = rater_name(rater) if rater is not None else None
        self._token, self._host = token, host
        here = Path(__file__).parent
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader([here, Path(repo_ray.evaluation.__file__).parent]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._script = (here / "page.js").read_text(encoding="utf-8")
        root = f"/{token}"
        self.app = Starlette(
            routes=[
                Route(f"{root}/", self._start),
                Route(f"{root}/style.css", self._style),
                Route(f"{root}/page.js", self._page_script),
                Route(f"{root}/r/{{rater}}", self._continue),
                Route(f"{root}/r/{{rater}}/{{number:int}}", self._pair),
                Route(f"{root}/r/{{rater}}/{{number:int}}", self._save, methods=["POST"]),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guard)],
            exception_handlers={RatingError: _unreadable, OSError: _unreadable},
        )

    # --- what is refused ----------------------------------------------------------------

    async def _guard(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Host, token and origin first; the same headers on every answer."""
        host = request.headers.get("host", "")
        token = request.url.path.lstrip("/").partition("/")[0]
        origin = request.headers.get("origin")
        if not _known_host(host, self._host):
            response: Response = PlainTextResponse("unknown host", 421)
        elif not secrets.compare_digest(token.encode(), self._token.encode()):
            response = PlainTextResponse("not found", 404)
        elif origin is not None and urlsplit(origin).netloc != host:
            response = PlainTextResponse("other origin", 403)
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    def _rater_of(self, request: Request) -> str:
        """The name in the address, if it is one that this server serves."""
        name = request.path_params["rater"]
        try:
            known = rater_name(name) == name and self._rater in (None, name)
        except RatingError:
            known = False
        if not known:
            raise HTTPException(404)
        return name

    def _pair_of(self, request: Request) -> tuple[int, Pair]:
        number = request.path_params["number"]
        if not 1 <= number <= len(self._pairs):
            raise HTTPException(404)
        return number, self._pairs[number - 1]

    # --- pages --------------------------------------------------------------------------

    def _start(self, request: Request) -> Response:
        """Asks for a name, or takes the one that was given."""
        given = self._rater or request.query_params.get("name")
        problem = ""
        if given is not None:
            try:
                return RedirectResponse(self._address(rater_name(given)), 303)
            except RatingError as error:
                problem = str(error)
        return self._html("start.html.j2", count=len(self._pairs), problem=problem)

    def _style(self, request: Request) -> Response:
        css = self._templates.get_template("page.css").render()
        return Response(css, media_type="text/css")

    def _page_script(self, request: Request) -> Response:
        return Response(self._script, media_type="text/javascript")

    def _continue(self, request: Request) -> Response:
        """The first pair that this person has not rated."""
        rater = self._rater_of(request)
        unrated = self._unrated(read_ratings(ratings_path(self._run, rater)))
        if unrated:
            return RedirectResponse(self._address(rater, unrated[0]), 303)
        return self._html("done.html.j2", rater=rater, count=len(self._pairs))

    def _pair(self, request: Request) -> Response:
        rater = self._rater_of(request)
        number, pair = self._pair_of(request)
        saved = read_ratings(ratings_path(self._run, rater))
        rating = saved.get(pair.key)
        left, right = self._sides(pair, rater, rating)
        count = len(self._pairs)
        return self._html(
            "pair.html.j2",
            rater=rater,
            number=number,
            count=count,
            rated=count - len(self._unrated(saved)),
            system=[m.content for m in pair.messages if m.role == "system"],
            talk=[
                ("User" if m.role == "user" else "Agent", m.content)
                for m in pair.messages
                if m.role != "system"
            ],
            facts=facts(pair.context),
            replies=[("left", "A", left[1]), ("right", "B", right[1])],
            rating_names=_RATING_NAMES,
            shown=_shown(left, right),
            rating=rating,
        )

    async def _save(self, request: Request) -> Response:
        """Keeps an answer and says where to go next."""
        rater = self._rater_of(request)
        number, pair = self._pair_of(request)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "expected application/json")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_LIMIT:
                raise HTTPException(413)
        return await run_in_threadpool(self._keep, rater, number, pair, bytes(body))

    def _keep(self, rater: str, number: int, pair: Pair, body: bytes) -> Response:
        path = ratings_path(self._run, rater)
        saved = read_ratings(path)
        left, right = self._sides(pair, rater, saved.get(pair.key))
        try:
            answer = Answer.model_validate_json(body)
            rating = Rating(
                rater=rater,
                set=pair.set,
                dialogue_id=pair.dialogue_id,
                turn=pair.turn,
                messages=pair.messages,
                context=pair.context,
                left=_rated(left, answer.left),
                right=_rated(right, answer.right),
                choice=answer.choice,
                note=answer.note.strip(),
                seconds=answer.seconds,
                time=datetime.now(UTC),
            )
        except ValidationError as error:
            return JSONResponse({"error": first_fault(error)}, 422)
        if answer.shown != _shown(left, right):
            return JSONResponse({"error": "this page is out of date: load it again"}, 409)
        append_rating(path, rating)
        unrated = self._unrated({**saved, rating.key: rating})
        after = next((n for n in unrated if n > number), unrated[0] if unrated else None)
        return JSONResponse({"next": self._address(rater, after)})

    # --- parts --------------------------------------------------------------------------

    def _unrated(self, saved: dict[PairKey, Rating]) -> list[int]:
        """Numbers of the pairs that are not rated, from 1."""
        return [n for n, pair in enumerate(self._pairs, start=1) if pair.key not in saved]

    def _sides(self, pair: Pair, rater: str, saved: Rating | None) -> tuple[Side, Side]:
        """Left and right; a pair that was rated comes back as it was shown then."""
        if saved is None:
            return pair.sides(rater, self._seed)
        return (saved.left.column, saved.left.reply), (saved.right.column, saved.right.reply)

    def _address(self, rater: str, number: int | None = None) -> str:
        address = f"/{self._token}/r/{quote(rater)}"
        return address if number is None else f"{address}/{number}"

    def _html(self, template: str, **values: object) -> Response:
        page = self._templates.get_template(template)
        return HTMLResponse(page.render(root=f"/{self._token}", **values))


def _rated(side: Side, mark: Mark) -> RatedReply:
    return RatedReply(column=side[0], reply=side[1], rating=mark.rating, serious=mark.serious)


def _shown(left: Side, right: Side) -> str:
    """Tells whether an answer is about these texts on these sides, without naming columns."""
    texts = "\0".join((left[1], right[1]))
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _unreadable(request: Request, error: Exception) -> Response:
    """The ratings file cannot be read or written: the page shows why and keeps the answer."""
    if request.method == "POST":
        return JSONResponse({"error": str(error)}, 500)
    return PlainTextResponse(str(error), 500)


def _known_host(header: str, bound: str) -> bool:
    """Whether a request that names this host can be meant for a server that listens on `bound`.

    Other sites reach a local server by pointing their own name at it. On the loopback only its
    own names are right; elsewhere this machine's names and plain addresses, which no site owns.
    The port is left out: it changes when the page comes through a tunnel.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name in _LOOPBACK:
        return True
    if bound in _LOOPBACK:
        return False
    if name in (bound.lower(), socket.gethostname().lower(), socket.getfqdn().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
