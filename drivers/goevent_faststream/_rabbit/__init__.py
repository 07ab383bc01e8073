"""RabbitMQ: without a group every bus gets every event; with one, durable queues."""
