"""The query encoder: it turns queries' texts and pictures into vectors in a process of its own."""
