"""One module per peer, imported only in the process that measures it."""
