"""Settings of the labels that encoders add to the metadata."""

from typing import Annotated

from pydantic import AfterValidator, Field

from contracts.characters import require_visible
from contracts.prompts import TEMPLATES, require_distinct, require_slot
from contracts.settings.bounds import NAMES_MAX, Text
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Unit


class LabelSettings(EnvironmentSettings):
    """The labels that encoders add to the metadata, by zero-shot classification."""

    labels: Basic[
        Annotated[
            list[Annotated[Text, AfterValidator(require_visible)]],
            AfterValidator(require_distinct),
        ]
    ] = Field(
        default_factory=list,
        max_length=10 * NAMES_MAX,
        description="Labels from which encoders choose for the field `labels` of the metadata "
        "(JSON list). Without any, no labels are added.",
    )
    label_templates: list[Annotated[Text, AfterValidator(require_slot)]] = Field(
        default_factory=lambda: list(TEMPLATES),
        min_length=1,
        max_length=NAMES_MAX,
        description="Sentences that each label is put into, in place of {}, before it is encoded "
        "(JSON list). The vectors of one label are averaged.",
    )
    label_count: Annotated[int, Unit("labels")] = Field(
        1,
        ge=1,
        le=1000,
        description="Largest number of labels that one item is given. The most probable ones win.",
    )
    label_probability_min: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least probability, among all labels, of a label that is given. An item "
        "whose labels are all less probable gets none.",
    )
