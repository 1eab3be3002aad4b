"""Lets `python -m llava_cli` do what `llava` does."""

from llava_cli.cli import main

main()
