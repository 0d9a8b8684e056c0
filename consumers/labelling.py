"""Labels for each embedding, from a fixed set, without training (contracts/zero_shot.py).

They travel in the metadata as `labels`, so that filters and live queries can use them. They are of
the moment of encoding: another set is another re-encode.
"""

from collections.abc import Sequence

import numpy as np

from contracts.errors import ConfigurationError
from contracts.ports import Encoder
from contracts.prompts import SLOT, prompts
from contracts.score import Vectors
from contracts.zero_shot import label_vector, probabilities

METADATA_KEY = "labels"


class Labeller:
    """The labels of a set that are likely enough for a vector, the likeliest first."""

    def __init__(
        self,
        encoder: Encoder,
        labels: Sequence[str],
        templates: Sequence[str],
        *,
        count: int,
        probability_min: float,
    ) -> None:
        """Encodes the prompts. Raises ConfigurationError for a set that cannot be."""
        if len(set(labels)) < len(labels):
            raise ConfigurationError("TIDELENS_LABELS: a label stands there twice")
        for template in templates:
            if SLOT not in template:
                raise ConfigurationError(
                    f"TIDELENS_LABEL_TEMPLATES: want {SLOT} for the label, got {template!r}"
                )
        self._labels = list(labels)
        self._count = count
        self._probability_min = probability_min
        self._logit_scale = encoder.logit_scale
        texts = [prompt for label in labels for prompt in prompts(label, templates)]
        rows = encoder.encode_texts(texts)
        step = len(templates)
        try:
            self._rows = np.stack(
                [label_vector(rows[start : start + step]) for start in range(0, len(rows), step)]
            )
        except ValueError as error:
            raise ConfigurationError(f"TIDELENS_LABELS: {error}") from None

    def labels_of(self, vector: Vectors) -> list[str]:
        likely = probabilities(self._rows @ vector.astype(np.float64), self._logit_scale)
        best = sorted(range(len(likely)), key=lambda n: -likely[n])[: self._count]
        return [self._labels[n] for n in best if likely[n] >= self._probability_min]
