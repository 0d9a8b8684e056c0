"""Approximate nearest neighbours: the Faiss indexes of segments, their choice and tuning."""
