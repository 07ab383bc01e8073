"""The peers, one module each; only the process that measures a peer imports its module."""
