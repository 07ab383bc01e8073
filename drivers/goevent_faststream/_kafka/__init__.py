"""Kafka: one dialect over two clients, aiokafka and confluent-kafka."""
