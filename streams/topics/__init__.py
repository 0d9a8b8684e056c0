"""Topics: creation, description, identity and partition counts."""
