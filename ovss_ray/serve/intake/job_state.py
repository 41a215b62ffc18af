"""The state of a job, as the service reports it and the client reads it."""

from typing import Literal

from pydantic import BaseModel, Field

State = Literal["running", "done"]


class JobState(BaseModel):
    """The state of a job."""

    id: str
    state: State
    images: int = Field(description="number of images in the request")
    answered: int = Field(description="number of images that are answered or refused")
    expires: float | None = Field(description="seconds until the answers are deleted; null while the job runs")
