"""The subcommands, one module each; heavy imports stay inside them."""
