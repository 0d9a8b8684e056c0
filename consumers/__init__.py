"""Encoder workers: fetch, decode, batch, encode, publish. With training/ the only home of torch."""
