"""The part of A1111's HTTP interface that its clients use to draw pictures (extra `conestool[serve]`)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from conestool.errors import ConesError, DeviceError, FormatError
from conestool.models.base_info import file_sha256, public_id
from conestool.models.sampling import check_size
from conestool.rendering.schedulers import SAMPLERS, find_sampler
from conestool.serving.drawing import Drawing, Painter

_REFUSED = (
    *("enable_hr", "restore_faces", "tiling", "styles", "subseed_strength"),
    *("script_name", "alwayson_scripts", "refiner_checkpoint"),
)
"""What changes a picture there and cannot be done here; A1111's other fields change none, and are passed over."""
_MODEL = "sd_model_checkpoint"
_MAX_BODY = 1 << 20
_MAX_PICTURES = 16
_MAX_WAITING = 64


class Txt2Img(BaseModel):
    """A request for pictures; what is None is the model's default, a seed below 0 a random one."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    negative_prompt: str | None = ""
    seed: int = Field(-1, lt=1 << 63)
    steps: int | None = Field(None, ge=1)
    cfg_scale: float | None = None
    width: int | None = Field(None, ge=1)
    height: int | None = Field(None, ge=1)
    batch_size: int = Field(1, ge=1)
    n_iter: int = Field(1, ge=1)
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    send_images: bool = True
    override_settings: dict[str, Any] | None = None


def make_app(painter: Painter, *, max_size: int, max_steps: int, token: str, hosts: list[str]) -> FastAPI:
    """The server around a model and its concepts, for who asks one of the `hosts` and brings the `token`, if any."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        painter.close()

    app = FastAPI(title="conestool", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(_Guard, token=token)
    app.add_exception_handler(ConesError, _explain)
    api = _Interface(painter, max_size, max_steps)
    app.post("/sdapi/v1/txt2img")(api.txt2img)
    app.post("/sdapi/v1/options")(api.set_options)
    app.post("/sdapi/v1/interrupt")(api.interrupt)
    app.get("/sdapi/v1/loras")(api.concepts)
    app.get("/sdapi/v1/progress")(api.progress)
    app.get("/sdapi/v1/{what}")(api.fact)
    return app


async def _explain(request: Request, error: Exception) -> Response:
    """An error as JSON, with its hint."""
    hint = getattr(error, "hint", None)
    content = {"error": type(error).__name__, "detail": f"{error}; {hint}" if hint else str(error)}
    return JSONResponse(content, 500 if isinstance(error, DeviceError | FormatError) else 422)


class _Interface:
    """What the server answers, address by address."""

    def __init__(self, painter: Painter, max_size: int, max_steps: int) -> None:
        self.painter, self.max_size, self.max_steps = painter, max_size, max_steps
        self.model = model = painter.model
        self.flow = "beta_schedule" not in model.pipe.scheduler.config
        digest = file_sha256(model) or next(iter(model.info.digests.values()))
        name, short = public_id(model.id), digest[:10]
        title = f"{name} [{short}]"
        self.title, self.names = title, (title, name, short)
        self.facts: dict[str, Any] = {
            "sd-models": [{"title": title, "model_name": name, "hash": short, "sha256": digest, "filename": name}],
            "options": {_MODEL: title, "sd_checkpoint_hash": digest, "samples_format": "png"},
            "samplers": [
                {"name": each.name, "aliases": [], "options": {}} for each in SAMPLERS if each.flow is self.flow
            ],
            "schedulers": [{"name": label.lower(), "label": label} for label in ("Automatic", "Karras")],
            "scripts": {"txt2img": [], "img2img": []},
        }

    def _check_model(self, settings: dict[str, Any] | None) -> None:
        """Refuse settings other than the model that is loaded."""
        for key, value in (settings or {}).items():
            if key != _MODEL or str(value) not in self.names:
                raise HTTPException(422, f"{key} cannot be {value!r} here: this server has {self.title} as it is")

    def _drawing_of(self, asked: Txt2Img) -> Drawing:
        """A request as a drawing, if it is within the limits."""
        self._check_model(asked.override_settings)
        if refused := [name for name in _REFUSED if (asked.model_extra or {}).get(name)]:
            raise HTTPException(422, f"not supported here: {', '.join(refused)}")
        side, steps = self.model.defaults.size, asked.steps or self.model.defaults.steps
        size, count = (asked.width or side, asked.height or side), asked.n_iter * asked.batch_size
        limits = ("width or height", max(size), self.max_size), ("steps", steps, self.max_steps)
        for what, value, most in (*limits, ("pictures", count, _MAX_PICTURES)):
            if value > most:
                raise HTTPException(422, f"{what} {value}: the most is {most}")
        if len(self.painter.waiting) >= _MAX_WAITING:
            raise HTTPException(503, f"{_MAX_WAITING} requests are waiting", {"Retry-After": "10"})
        check_size(self.model, size)
        seed = random.getrandbits(32) if asked.seed < 0 else asked.seed
        options: dict[str, Any] = {"negative": asked.negative_prompt or "", "steps": asked.steps, "size": size}
        options |= {"guidance": asked.cfg_scale, "scheduler": _sampler(asked, self.flow)}
        return Drawing(asked.prompt, range(seed, seed + count), options, steps)

    async def txt2img(self, asked: Txt2Img, request: Request) -> Any:
        drawing = self._drawing_of(asked)
        drawn = asyncio.wrap_future(self.painter.submit(drawing))
        while not (await asyncio.wait({drawn}, timeout=0.2))[0]:
            if await request.is_disconnected():
                drawing.stop.set()
        pictures = await drawn
        records = [record for _, record in pictures]
        info: dict[str, Any] = {"prompt": asked.prompt, "all_prompts": [each["sent"] for each in records]}
        info |= {"seed": drawing.seeds[0], "all_seeds": [each["seed"] for each in records], "cones": records}
        images = [base64.b64encode(png).decode() for png, _ in pictures] if asked.send_images else []
        return {"images": images, "parameters": asked.model_dump(), "info": json.dumps(info)}

    async def set_options(self, settings: dict[str, Any]) -> None:
        self._check_model(settings)

    async def interrupt(self) -> Any:
        if self.painter.current:
            self.painter.current.stop.set()
        return {}

    async def concepts(self) -> Any:
        offers = self.painter.index.update().offers
        return [
            {"name": each.name, "alias": each.class_noun, "path": each.file.name, "metadata": {}} for each in offers
        ]

    async def progress(self) -> Any:
        now = self.painter.current
        state = {"job_count": len(self.painter.waiting), "sampling_step": now.step if now else 0}
        state |= {"sampling_steps": now.steps if now else 0, "interrupted": bool(now and now.stop.is_set())}
        share = min(1.0, now.step / (now.steps * len(now.seeds))) if now else 0.0
        return {"progress": share, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}

    async def fact(self, what: str) -> Any:
        if what not in self.facts:
            raise HTTPException(404, f"{what} is not served here")
        return self.facts[what]


class _Guard:
    """Refuses who does not bring the token, and bodies that are long or do not say how long they are."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self.app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            unknown = "0" if scope["method"] == "GET" else str(_MAX_BODY + 1)
            if self.token and not _knows_token(headers.get("authorization", ""), self.token):
                answer = JSONResponse({"detail": "a token is needed"}, 401, {"WWW-Authenticate": "Basic"})
            elif "transfer-encoding" in headers or int(headers.get("content-length", unknown)) > _MAX_BODY:
                answer = JSONResponse({"detail": f"more than {_MAX_BODY} bytes, or of unknown length"}, 413)
        await answer(scope, receive, send)


def _sampler(asked: Txt2Img, flow: bool) -> str | None:
    """The sampler's name as `render` takes it, None for the model's own; UsageError for one that is not known."""
    name = asked.sampler_name or asked.sampler_index
    if not name:
        return None
    kind = (asked.scheduler or "automatic").casefold()
    name = f"{name} Karras" if kind == "karras" and not name.casefold().endswith("karras") else name
    if kind not in ("automatic", "karras"):
        raise HTTPException(422, f"scheduler {asked.scheduler}: use Automatic or Karras")
    find_sampler(name, flow)
    return name


def _knows_token(header: str, token: str) -> bool:
    """Whether a request brings the token: as a bearer, or as the password that A1111's clients send."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    return hmac.compare_digest(value.encode(), token.encode())
