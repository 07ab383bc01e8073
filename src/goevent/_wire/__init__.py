"""The wire format: the envelope, and the codecs that turn envelopes into bytes and back.

Drivers call this room through the outgoing messages and the inbox of an open bus. It knows the room
of events, because it validates an event against its registered class. It must never know a
listener, a dispatch or a transport.
"""
