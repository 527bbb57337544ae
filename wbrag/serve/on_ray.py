"""The same server on a cluster, under Ray Serve: `serve run wbrag.serve.on_ray:application kb=/data/runs/nq`.

Each replica opens the knowledge base by itself, from storage that all nodes share, and follows its versions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from wbrag.config import ConfigError
from wbrag.serve import key_of
from wbrag.serve.app import app_of
from wbrag.serve.hits import Served

if TYPE_CHECKING:
    from ray.serve import Application


class Settings(BaseModel):
    """What a deployment is told. `kb`: an absolute path or an s3:// URL; `api_key_env`: a variable of the replicas'
    environment; without it `without_key` has to say that none is needed.
    """

    model_config = ConfigDict(extra="forbid")
    kb: str
    api_key_env: str = ""
    without_key: bool = False
    follow: float = Field(5.0, ge=0)
    review: bool | None = None
    replicas: int = Field(1, ge=1)
    cpus: float = Field(1.0, gt=0)


def replica(settings: Settings) -> Callable[[], FastAPI]:
    """What makes the application of one replica, there."""

    def made() -> FastAPI:
        return app_of(Served(settings.kb, settings.follow), key=key_of(settings.api_key_env), review=settings.review)

    return made


def application(args: dict[str, Any]) -> Application:
    """The application for `Settings` as plain values, as `serve run` and `serve deploy` give them. ConfigError where
    anybody might ask by oversight; ModuleNotFoundError where `ray[serve]` is not installed.
    """
    from ray import serve

    settings = Settings(**args)
    if not (settings.api_key_env or settings.without_key):
        raise ConfigError("api_key_env: name the variable with the key, or say without_key=true")

    @serve.deployment(name="wbrag", num_replicas=settings.replicas, ray_actor_options={"num_cpus": settings.cpus})
    @serve.ingress(replica(settings))
    class Server:
        """One replica."""

    bound: Any = Server
    made: Application = bound.bind()
    return made
