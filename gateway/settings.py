"""Settings, each from an environment variable POSTPULSE_<NAME>."""

from pathlib import Path

from pydantic import Field, HttpUrl, PositiveFloat, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


class Settings(BaseSettings):
    """What differs between deployments; POSTPULSE_TRITON_URL sets `triton_url`, and so on."""

    model_config = SettingsConfigDict(env_prefix="POSTPULSE_", frozen=True)

    triton_url: str = Field(
        default="127.0.0.1:8001", pattern=r"^[^/\s]+:\d{1,5}$", description="HOST:PORT of Triton's gRPC"
    )
    storage_folder: Path = Field(default=Path("out/images"), description="folder that keeps the pictures")
    public_url: HttpUrl | None = Field(
        default=None, description="base of generated_image_url; default: the address that the request used"
    )
    deadline_seconds: PositiveFloat = Field(default=120.0, description="longest wait for one picture")
    probe_seconds: PositiveFloat = Field(default=5.0, description="longest wait for readiness or config")


def load(triton_url: str | None) -> Settings:
    """The environment's settings, with `triton_url` unless None; SettingsError names what is wrong."""
    try:
        return Settings(triton_url=triton_url) if triton_url else Settings()
    except ValidationError as error:
        faults = [
            f"{fault['loc'][0]}: {fault['msg']} (given: {fault['input']!r})" for fault in error.errors()
        ]
        raise SettingsError("; ".join(faults)) from None
