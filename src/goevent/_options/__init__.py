"""What a user may ask for: listener options, retries, supervision, middleware and signatures.

Everything here is a value or a check that runs once, at registration. The kernel and the listeners'
room read these values; this room knows nothing of actors, mailboxes or workers.
"""
