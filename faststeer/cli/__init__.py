"""The command `faststeer`: one file per subcommand, and shared options in `options`."""
