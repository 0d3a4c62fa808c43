"""The FastAPI application: wiring only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from gateway.adapters import AdapterTable
from gateway.base_image.decode import Decoder
from gateway.base_image.fetch import Fetcher
from gateway.generation import BaseImages, Drawing
from gateway.handlers import HANDLERS
from gateway.middleware import BodyLimit, RequestId
from gateway.places import Places
from gateway.routes import Services, router
from gateway.settings import Settings
from gateway.storage import LocalStorage
from gateway.triton import TritonClient


def create_app(settings: Settings | None = None) -> FastAPI:
    """The gateway with these settings, None: from the environment. It starts whether or not Triton is up.

    OSError if the folder of the pictures cannot be made.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="PostPulse image generation",
        version="0.1.0",
        lifespan=_lifespan,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestId),
            Middleware(Places, limit=settings.max_in_flight),
            Middleware(BodyLimit),
        ],
        exception_handlers=HANDLERS,
    )
    app.state.settings, app.state.storage = settings, LocalStorage(settings.storage_folder)
    app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    triton = TritonClient(settings.triton_url, settings.deadline_seconds, settings.probe_seconds)
    fetcher = Fetcher(settings.base_image_hosts)
    drawing = Drawing(triton, BaseImages(fetcher, Decoder()), AdapterTable(settings.adapters))
    app.state.services = Services(settings, drawing, app.state.storage)
    try:
        yield
    finally:
        await triton.close()
        await fetcher.close()
