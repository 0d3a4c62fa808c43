"""The gateway's routes."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from tritonclient.utils import InferenceServerException

from families import FamilySpec
from gateway.disconnect import unless_client_leaves
from gateway.events import EVENTS, events, wants_events
from gateway.faults import RETRY_AFTER, fault_of
from gateway.generation import Drawing, Ordered, Stopwatch, answer, keep
from gateway.intake import DOCUMENTED, Asked, read
from gateway.limits import Limits
from gateway.problems import Problem, documented
from gateway.replies import ReplyError
from gateway.samples import Order
from gateway.schemas import Choice, GenerateResponse, ListedLora, Readiness, Served
from gateway.settings import Settings
from gateway.storage import Storage
from gateway.triton import NOT_DRAWING

log = logging.getLogger("gateway")
router = APIRouter()
IMAGE_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Services:
    """What the routes work with, made once at start-up."""

    settings: Settings
    drawing: Drawing
    storage: Storage


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Using = Annotated[Services, Depends(services)]


@router.post(
    "/generate-image",
    response_model=GenerateResponse,
    openapi_extra=DOCUMENTED,
    responses={**EVENTS, **documented(400, 413, 415, 422, 500, 502, 503, 504, 507)},
)
async def generate_image(
    request: Request,
    response: Response,
    asked: Annotated[Asked, Depends(read)],
    use: Using,
) -> GenerateResponse | Response:
    """Draws one picture, from text alone or from a base image, and answers with its URL.

    With `Accept: text/event-stream`, events `progress` tell how far it is; the last event is `done`, with the
    answer, or `error`, with a problem.
    """
    watch = Stopwatch()
    ordering = use.drawing.order(asked, request.state.request_id, watch)
    ordered = await unless_client_leaves(request, ordering)
    work = _finished(request, use, ordered, watch)
    if wants_events(request):
        return events(request, work, lambda: use.drawing.progress(ordered))
    answered = await unless_client_leaves(request, work)
    response.headers["Server-Timing"] = watch.server_timing
    return answered


async def _finished(request: Request, use: Services, ordered: Ordered, watch: Stopwatch) -> GenerateResponse:
    """Draws, stores and answers; what is drawn is stored, whoever has left meanwhile."""
    picture = await use.drawing.draw(ordered, watch)
    name = await asyncio.shield(keep(picture, ordered.resolved.output_format, use.storage, watch))
    return answer(ordered, picture, _url(request, use.settings, name), watch.seconds)


def _url(request: Request, settings: Settings, name: str) -> str:
    base = str(settings.public_url or request.base_url)
    return f"{base.rstrip('/')}/images/{name}"


@router.get("/images/{name}", response_class=Response, responses=documented(404, 503))
@router.head("/images/{name}", include_in_schema=False)
async def image(request: Request, name: str, use: Using) -> Response:
    """A stored picture. It never changes, so its name is its ETag."""
    content = await use.storage.load(name)
    if content is None:
        raise Problem(404, "No such image", f"there is no image '{name[:64]}'")
    etag, known = f'"{name}"', request.headers.get("if-none-match", "")
    headers = {**IMAGE_HEADERS, "ETag": etag, "Content-Disposition": f'inline; filename="{name}"'}
    if known == "*" or etag in known:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=f"image/{name.partition('.')[2]}")


@router.get("/industries")
async def industries(use: Using) -> list[Choice]:
    """The industries that a request may name, and the adapters that each brings."""
    return use.drawing.adapters.industries()


@router.get("/styles")
async def styles(use: Using) -> list[Choice]:
    """The styles that a request may name, and the adapters that each brings."""
    return use.drawing.adapters.styles()


@router.get("/loras")
async def loras(use: Using) -> list[ListedLora]:
    """The adapters that a request may name; those of another checkpoint than is served are refused."""
    return use.drawing.adapters.loras()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The gateway itself answers; asks nothing of Triton."""
    return {"status": "ok"}


@router.get("/readyz", responses=documented(503))
async def readyz(use: Using) -> Readiness:
    """Triton draws: the server is ready and a picture came out of every served model lately."""
    try:
        served = await use.drawing.triton.prove_ready()
    except NOT_DRAWING as error:
        log.warning("not ready: Triton at %s: %s", use.settings.triton_url, error)
        detail = f"the model server does not draw at present: {_reason(error, use.settings)}"
        raise Problem(503, "Not ready", detail, headers=RETRY_AFTER) from error
    return Readiness(
        models=[_served(family, served) for family in dict.fromkeys(order.family for order in served)]
    )


def _reason(error: Exception, settings: Settings) -> str:
    """Without what Triton or its reply tell of the inside: that is in the log."""
    if isinstance(error, InferenceServerException):
        return fault_of(error).title.lower()
    return "bad reply" if isinstance(error, ReplyError) else f"no answer within {settings.probe_seconds:g} s"


def _served(family: FamilySpec, served: Mapping[Order, Limits]) -> Served:
    """All ensembles of a family have the limits of its one checkpoint."""
    limits = {order.task: found for order, found in served.items() if order.family is family}
    return Served(model=family.name, tasks=list(limits), **asdict(next(iter(limits.values()))))


@router.get("/")
async def index() -> dict[str, str]:
    """Where to go from here."""
    names = {"industries": "/industries", "styles": "/styles", "loras": "/loras"}
    return {"generate": "/generate-image", "docs": "/docs", **names}
