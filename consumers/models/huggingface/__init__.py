"""Checkpoints of Hugging Face: CLIP, SigLIP and related families.

To add a model family, add the name of its last text tensor to `_TEXT_PROJECTIONS`
(consumers/models/spaces.py), unless its configuration has `projection_dim`. If its tokenizer
differs from what transformers loads, change checkpoint.py; if its padding differs, encoder.py. Then
add a small checkpoint to FAMILIES (tests/kits/checkpoints.py) and its processor to CALLED
(tests/unit/consumers/test_checkpoint_families.py), which compares it with transformers.

A model that is not a checkpoint of Hugging Face is another branch in `open_encoder`, `model_space`
and `is_tunable` (consumers/models/__init__.py).
"""
