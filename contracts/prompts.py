"""Prompt templates: models were trained on captions, so labels and queries are put into some."""

from collections import Counter
from collections.abc import Sequence

SLOT = "{}"
# The template of CLIP (Radford et al. 2021, section 3.1.4).
TEMPLATES = ("a photo of a {}.",)
# The default for queries: the text as it was asked.
PLAIN = (SLOT,)


def require_slot(template: str) -> str:
    """Return `template`. Raise ValueError where it has no slot for the text."""
    if SLOT not in template:
        raise ValueError(f"want {SLOT} in the template, got {template!r}")
    return template


def require_distinct(labels: list[str]) -> list[str]:
    """Return `labels`. Raise ValueError for a repeated one, which would share its probability."""
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is given twice")
    return labels


def fill_templates(texts: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return each text in each template; the prompts of one text follow each other."""
    return [template.replace(SLOT, text) for text in texts for template in templates]
