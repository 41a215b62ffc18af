"""Base class of configs."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Typed and frozen settings that reject unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
