"""Consumer groups: their coordinators, members and committed offsets."""
