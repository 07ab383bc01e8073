"""NATS: core, where every bus gets every event, and JetStream, which keeps them."""
