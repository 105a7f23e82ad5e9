"""Other libraries' loaders and writers, measured in processes of environments of their own.

Only `process` and `choice` run in this project's environment; the rest runs in the peers'.
"""
