"""`python -m faststeer`."""

from faststeer.cli.main import main

main()
