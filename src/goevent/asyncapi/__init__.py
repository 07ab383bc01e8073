"""The AsyncAPI 3 document of a bus, made from its code; the extra `asyncapi`.

It reads the listeners, the registry and the capabilities of the driver, and needs no broker.
"""
