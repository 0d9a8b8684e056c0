"""The public face: the async client and the `tidelens` command, which wires the rooms."""
