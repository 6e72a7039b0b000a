"""`python -m llama4sdk` is the command `llama4`."""

from llama4sdk.command import main

if __name__ == "__main__":
    main()
