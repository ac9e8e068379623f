"""`gnm serve`: memories by name behind an HTTP service, and a page that shows them. Needs the extra `serve`.

- `program`: the command. `server`: connections. `answers`: what holds for every request. `app`: routes.
- `memories`, `completions`: what the endpoints do. `keys`: who may call them.
- `worker`: the one thread that runs the model: a bounded queue, questions in batches, streams in turn.
  `jobs`: what waits for it.
- `store`: memory files by user and name. `memory`: a Conversation that streams and answers beside others.
- `page/`: HTML, style and script as they are served; nothing is built and nothing is fetched from another host.

Not covered: encryption of the connection and limits by address; a proxy in front of it does both.
"""
