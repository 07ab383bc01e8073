"""Events: their names, their patterns, the classes that are event types, and the registry of them.

The bus asks this room which name an object has, and the codecs ask it which values a class may
hold. It knows no listener, no dispatch and no broker.
"""
