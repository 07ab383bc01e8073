"""Events: names, patterns, the classes that are event types, and the registry of these classes.

The room owns the grammar of event names and patterns, the base class `Event`, the registry that
maps names to classes, and the rules that values must meet on the wire, with the check that an event
is read back as it was written. The bus asks it for the name of an event; the codecs ask it how to
read and write an event. It must never know a listener, a dispatch or a broker.
"""
