"""The application: the routes, and what is answered to a request that cannot be read."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from realm_lib.config.base import Secret
from realm_lib.inference.server.guards import AccessLog, AddressGuard, BodyLimit, RequestLimit, TokenGuard
from realm_lib.inference.server.leaving import LeavesWithClient
from realm_lib.inference.server.reference import render_reference
from realm_lib.inference.server.service import RewardService
from realm_lib.inference.server.strict_json import StrictRoute
from realm_lib.inference.server.wire import (
    BadRequestError,
    Explained,
    ExplainedList,
    Failure,
    GetRewardAnswer,
    GetRewardRequest,
    PredictRequest,
    ScoresAnswer,
    ScoresRequest,
    pairs_of,
    probability,
)

_LOGGED = ("score", "similarity", "spread", "outside")
_KEYS = {"body", "prompt", "response", "query", "prompts", "messages", "role", "content"}
_QUICK = 2**16
"""Bytes of a body whose texts are split in milliseconds, whatever they are; more is done beside the event loop."""
_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": description}
    for status, description in (
        (400, "Not JSON."),
        (401, "The token is missing or wrong."),
        (408, "The body took too long."),
        (413, "The body is too large."),
        (421, "Without a token: not a name of this machine's own."),
        (422, "The JSON is not what this route takes, or a limit on texts is exceeded."),
        (429, "Too much waits already; Retry-After says when to try again."),
        (500, "A reward is not finite, or a fault of the server."),
        (503, "Not ready, stopping, too much under way, or nothing was computed in time; try again."),
        (504, "The computing took too long."),
    )
}


def create_app(service: RewardService, on_failure: Callable[[], None] = lambda: None) -> FastAPI:
    """The routes. The model is loaded while /healthz already answers; ``on_failure`` is called when it cannot be."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async def work() -> None:
            try:
                await asyncio.to_thread(service.load)
            except Exception as error:
                service.failure = error
                service.batcher.close()
                on_failure()
            await service.batcher.run()

        working = asyncio.create_task(work())
        yield
        service.batcher.close()
        await working

    app = FastAPI(
        title="REALM",
        version=version("realm-lib"),
        summary="A reward for RLHF: a reward model's score, prompt-response similarity and more, combined.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,  # AddressGuard takes them off: few clients send a body again where they are sent on to
        telemetry={"tracing": False},
    )
    app.state.limits = service.limits
    app.router.route_class = StrictRoute

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # The input is not repeated, nor a key that the client chose: either may be a text.
        faults = [f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors()[:8]]
        return JSONResponse({"detail": "; ".join(faults)}, status_code=422)

    @app.exception_handler(BadRequestError)
    async def bad(_: Request, error: BadRequestError) -> JSONResponse:
        places = {"unscorable": error.unscorable} if error.unscorable else {}
        return JSONResponse({"detail": str(error), **places}, status_code=422)

    _add_rewards(app, service)
    _add_state(app, service)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_reference(app.openapi()))

    return app


def _path(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location if part in _KEYS or isinstance(part, int)) or "body"


def _add_rewards(app: FastAPI, service: RewardService) -> None:
    reading = asyncio.Lock()

    async def explain(request: PredictRequest | GetRewardRequest | ScoresRequest, http: Request) -> list[Explained]:
        client = http.client.host if http.client else None
        if len(await http.body()) < _QUICK:
            return await service.explain(pairs_of(request, service.limits), client)
        async with reading:  # one thread at most: the loop gets its turn
            pairs = await asyncio.to_thread(pairs_of, request, service.limits)
        return await service.explain(pairs, client)

    @app.post("/predict", responses=_FAULTS, tags=["rewards"])
    async def predict(request: PredictRequest, http: Request) -> Explained | ExplainedList:
        """The reward of a response, or of each of a list."""
        explained = await explain(request, http)
        if isinstance(request.response, str):
            return explained[0]
        return ExplainedList(rewards=[answer.reward for answer in explained], results=explained)

    @app.post("/get_reward", responses=_FAULTS, tags=["rewards"])
    async def get_reward(request: GetRewardRequest, http: Request) -> GetRewardAnswer:
        """OpenRLHF's remote reward (`--reward.remote_url`). Empty lists are answered with empty lists."""
        explained = await explain(request, http)
        rewards = [answer.reward for answer in explained]
        logs = {name: [float(getattr(answer, name)) for answer in explained] for name in _LOGGED}
        signals = explained[0].signals if explained else {}
        logs |= {name: [answer.signals[name] for answer in explained] for name in signals}
        return GetRewardAnswer(rewards=rewards, scores=[probability(reward) for reward in rewards], extra_logs=logs)

    @app.post("/v1/score/evaluation", responses=_FAULTS, tags=["rewards"])
    async def scores(request: ScoresRequest, http: Request) -> ScoresAnswer:
        """LLaMA-Factory's API reward (`reward_model_type: api`)."""
        explained = await explain(request, http)
        return ScoresAnswer(scores=[answer.reward for answer in explained])


def _add_state(app: FastAPI, service: RewardService) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["state"])
    async def healthz() -> dict[str, str]:
        """200 as soon as the server listens."""
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: _FAULTS[503]}, tags=["state"])
    async def readyz() -> dict[str, Any]:
        """200 when the model is loaded, with its versions."""
        if service.models is None:
            raise HTTPException(503, "the model is being loaded", service.wait)
        return {"status": "ready", "models": service.models}

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def guarded(app: ASGIApp, service: RewardService, token: Secret | None) -> ASGIApp:
    """The application behind its guards. What asks for the server's state passes by the limits: it sends no body."""
    limited = RequestLimit(BodyLimit(LeavesWithClient(app), service.limits), service.limits)
    return AccessLog(AddressGuard(TokenGuard(limited, app, token), any_name=token is not None), service.metrics)
