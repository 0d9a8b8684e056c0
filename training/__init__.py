"""Training and evaluation: the starter model's head, fine-tuning, scores."""
