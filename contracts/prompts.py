"""What a label is put into before it is encoded: models were trained on captions, not on words."""

from collections.abc import Sequence

SLOT = "{}"
# CLIP's own (Radford et al. 2021, section 3.1.4).
TEMPLATES = ("a photo of a {}.",)


def prompts(label: str, templates: Sequence[str]) -> list[str]:
    """The label in each template."""
    return [template.replace(SLOT, label) for template in templates]
