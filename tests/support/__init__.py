"""Real servers, worker processes and builders of buses that the tests share."""
