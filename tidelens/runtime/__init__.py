"""The roles as processes: encode, index, serve, and `up`, which starts them all."""
