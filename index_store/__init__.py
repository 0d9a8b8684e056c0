"""The Faiss index: rows, views, snapshots. The only product code that imports faiss."""
