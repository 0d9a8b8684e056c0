"""What labels and queries are put into before they are encoded: models were trained on captions."""

from collections import Counter
from collections.abc import Sequence

SLOT = "{}"
# CLIP's own (Radford et al. 2021, section 3.1.4).
TEMPLATES = ("a photo of a {}.",)
# Of queries: as they were asked.
PLAIN = (SLOT,)


def require_slot(template: str) -> str:
    """Raises ValueError for one that would encode the same whatever is put into it."""
    if SLOT not in template:
        raise ValueError(f"want {SLOT} in the template, got {template!r}")
    return template


def require_distinct(labels: list[str]) -> list[str]:
    """Raises ValueError for a label that stands there twice: it would share its probability."""
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} stands there twice")
    return labels


def prompts(texts: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each text in each template; those of one text follow each other."""
    return [template.replace(SLOT, text) for text in texts for template in templates]
