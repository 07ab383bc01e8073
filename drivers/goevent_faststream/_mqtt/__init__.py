"""MQTT, with shared subscriptions as groups."""
