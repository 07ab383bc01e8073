"""The suite of conversations: requests and their answers between two processes, and reports."""
