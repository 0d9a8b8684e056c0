"""What labels and queries are put into before they are encoded: models were trained on captions."""

from collections.abc import Sequence

SLOT = "{}"
# CLIP's own (Radford et al. 2021, section 3.1.4).
TEMPLATES = ("a photo of a {}.",)
# Of queries: as they were asked.
PLAIN = (SLOT,)


def require_slot(template: str) -> str:
    """Raises ValueError for one that would encode the same whatever is put into it."""
    if SLOT not in template:
        raise ValueError(f"want {SLOT} in the template")
    return template


def prompts(text: str, templates: Sequence[str]) -> list[str]:
    """The text in each template."""
    return [template.replace(SLOT, text) for template in templates]
