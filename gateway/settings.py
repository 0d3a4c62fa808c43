"""Settings, each from an environment variable POSTPULSE_<NAME>."""

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, HttpUrl, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from families.adapters import DEFAULT_STORE
from gateway.base_image.urls import AllowList

# What Kubernetes adds to the environment for a service that has our prefix in its name.
OF_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


class Settings(BaseSettings):
    """What differs between deployments; POSTPULSE_TRITON_URL sets `triton_url`, and so on."""

    model_config = SettingsConfigDict(env_prefix="POSTPULSE_", frozen=True)

    triton_url: str = Field(
        default="127.0.0.1:8001", pattern=r"^[^/\s]+:\d{1,5}$", description="HOST:PORT of Triton's gRPC"
    )
    storage_folder: Path = Field(default=Path("out/images"), description="folder that keeps the pictures")
    adapters: Path = Field(
        default=DEFAULT_STORE, description="the store of adapters, which Triton's models read too"
    )
    public_url: HttpUrl | None = Field(
        default=None, description="base of generated_image_url; default: the address that the request used"
    )
    base_image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="hosts of your own, HOST or HOST:PORT with commas between, that base images may come "
        "from though their addresses are not public",
    )
    max_in_flight: PositiveInt = Field(
        default=64, description="requests being drawn or waiting at once; more are answered 503"
    )
    deadline_seconds: PositiveFloat = Field(default=120.0, description="longest wait for one picture")
    probe_seconds: PositiveFloat = Field(default=5.0, description="longest wait for readiness or config")

    @field_validator("base_image_hosts", mode="before")
    @classmethod
    def _split(cls, hosts: object) -> object:
        return tuple(filter(None, map(str.strip, hosts.split(",")))) if isinstance(hosts, str) else hosts

    @field_validator("base_image_hosts")
    @classmethod
    def _checked(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        AllowList(hosts)
        return hosts


def described() -> str:
    """A line for each setting: its variable, what it is, its default."""
    return "\n".join(f"  {variable}: {said}" for variable, said in _settings())


def _settings() -> Iterator[tuple[str, str]]:
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f" (default: {field.default})"
        yield _variable(name), f"{field.description}{default}"


def _variable(name: str) -> str:
    """Of the environment, for the setting `name`."""
    return f"{Settings.model_config['env_prefix']}{name.upper()}"


def misspelt() -> list[str]:
    """A line for each variable of the environment that is nearly a setting's and sets nothing."""
    prefix, names = Settings.model_config["env_prefix"], list(Settings.model_fields)
    others = {name.upper() for name in os.environ} - {_variable(name) for name in names}
    meant = {
        other: get_close_matches(other.removeprefix(prefix).lower(), names, n=1)
        for other in sorted(others)
        if other.startswith(prefix) and not OF_KUBERNETES.search(other)
    }
    return [
        f"{other} is no setting and changes nothing; did you mean {_variable(near[0])}?"
        for other, near in meant.items()
        if near
    ]


def load(triton_url: str | None) -> Settings:
    """The environment's settings, with `triton_url` unless None; SettingsError names what is wrong."""
    try:
        return Settings(triton_url=triton_url) if triton_url else Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(map(_fault, error.errors()))) from None


def _fault(found: Any) -> str:
    name = found["loc"][0]
    said = Settings.model_fields[name].description
    return f"{_variable(name)} ({said}): {found['msg']}; given: {found['input']!r}"
