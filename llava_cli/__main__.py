"""Lets `python -m llava_cli` do what `llava` does, and Ctrl-C end both without a word while they are being read in."""

import signal

# Python would answer with where it just was. `main` takes it from here.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from llava_cli.cli import main

if __name__ == "__main__":
    main()
