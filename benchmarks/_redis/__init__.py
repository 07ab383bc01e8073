"""goevent over Redis pub/sub, beside its peers: one server, rounds interleaved, ratios."""
