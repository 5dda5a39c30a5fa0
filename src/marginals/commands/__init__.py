"""One module per sub-command: its flags as a pydantic model, and what it does as `run`.

Nothing here imports torch at the top of a module, so that every `--help` is immediate; `run`
imports what it needs.
"""
