"""The wire format: the envelope, and the codecs that turn it into bytes and back.

Drivers call it through the messages and the inbox of an open bus. It knows the room of events and
nothing of listeners, dispatch or transports.
"""
