"""Settings of the model that turns pictures and texts into vectors."""

from typing import Literal

from pydantic import Field

from contracts.settings.bounds import TEXT_MAX
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic


class ModelSettings(EnvironmentSettings):
    """The model, which encoders and nodes must have in common."""

    model: Basic[str] = Field(
        "starter",
        max_length=TEXT_MAX,
        description="`starter`, the folder of a checkpoint, or the name of a checkpoint on the "
        "Hugging Face hub. `hash` compares words only and is meant for tests.",
    )
    precision: Basic[Literal["auto", "float32", "bfloat16", "float16", "int8"]] = Field(
        "auto",
        description="Numeric precision of a checkpoint's model. `auto` uses what `tidelens doctor "
        "--tune` found, or a 2-second probe.",
    )
    remote_code: bool = Field(
        False,
        description="Permission to run the Python code that a checkpoint brings. Read that code "
        "first; without the permission such a checkpoint is refused.",
    )

    @property
    def precision_named(self) -> str | None:
        """The precision that was chosen, or None where `auto` leaves the choice to the encoder."""
        return None if self.precision == "auto" else self.precision
