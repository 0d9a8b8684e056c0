"""Labels for each embedding, from a fixed set, without training (contracts/zero_shot.py).

They are in the metadata as `labels`, so that filters and live queries can use them. An embedding
keeps the labels of the set that was configured when it was encoded; only a re-encode changes them.
"""

from collections.abc import Sequence

import numpy as np

from contracts.errors import ConfigurationError, RejectedRequest
from contracts.ports.encoder import Encoder
from contracts.prompts import fill_templates
from contracts.score import Vectors
from contracts.zero_shot import label_vectors, probabilities

METADATA_KEY = "labels"


class Labeller:
    """Chooser of the labels of a set that are likely enough for a vector.

    `templates` are the prompts around a label, `count` is the most labels of one item, and
    `probability_min` the least probability, from 0 to 1, of each.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: Sequence[str],
        templates: Sequence[str],
        *,
        count: int,
        probability_min: float,
    ) -> None:
        """Encode the prompts. Raises ConfigurationError when the vectors of a label cancel out."""
        self._labels = list(labels)
        self._count = count
        self._probability_min = probability_min
        self._logit_scale = encoder.logit_scale
        rows = encoder.encode_texts(fill_templates(labels, templates))
        try:
            self._rows = label_vectors(labels, rows)
        except RejectedRequest as error:
            raise ConfigurationError(f"TIDELENS_LABELS: {error}") from None

    def labels_of(self, vector: Vectors) -> list[str]:
        """Return the labels of a unit vector, (dim,), the likeliest first."""
        likely = probabilities(self._rows @ vector.astype(np.float64), self._logit_scale)
        best = sorted(range(len(likely)), key=lambda n: -likely[n])[: self._count]
        return [self._labels[n] for n in best if likely[n] >= self._probability_min]
