"""Conversations: requests and their replies, and reports about the listeners of other buses.

The bus owns one `Conversations`, the session opens and closes it, and the inbox hands it the
requests that a broker brings. The room knows the direct messages of a driver and the dispatcher of
its own bus. It never knows a broker.

- `messages`: the direct messages, as they stand on the wire.
- `addresses`: the addresses of direct messages.
- `answers`: turns the answers of responders into bytes and back.
- `channel`: sends direct messages, and hands on those that arrive.
- `peers`: notices that the other bus of a conversation has ended.
- `directory`: finds the buses that respond to an event.
- `responders`: the responders of this bus, and the requests in their mailboxes.
- `request_run`: one request at a responder.
- `request_headers`: the headers of a request.
- `service`: takes the requests of other buses to the responders.
- `link`: the parts of the conversations of one session.
- `requests`: the requests of this bus that wait for an answer.
- `asked_request`: one of these.
- `tracking`: the reports of other buses about the events of this one.
- `reports`: the reports of this bus about the events of others.
- `deadlocks`: finds responders that wait for each other.
- `conversations`: wires these parts for one bus.
- `lazy`: makes the conversations with their first use.
"""
