"""`python -m faststeer`."""

from faststeer.cli import main

main()
