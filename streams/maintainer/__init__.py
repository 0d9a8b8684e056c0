"""The index maintainer: the loop from the embeddings topics into the index."""
