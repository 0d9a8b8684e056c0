"""Checkpoints of Hugging Face: CLIP, SigLIP and related families."""
