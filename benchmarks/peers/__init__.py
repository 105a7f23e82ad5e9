"""Other libraries' loaders and writers, measured in processes of environments of their own.

`process`, `choice`, `loaders`, `packers` and `stored_images` run in this project's environment; the
rest, and `stored_images`, in the peers'.
"""
