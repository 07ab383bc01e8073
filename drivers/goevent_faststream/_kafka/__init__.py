"""Kafka: one adapter over two clients, aiokafka and confluent-kafka."""
